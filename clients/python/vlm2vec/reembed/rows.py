"""Rows of a corpus: which keys they may have, and the inputs that they describe."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar

from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import is_url
from vlm2vec.inputs import KEYS, MEDIA_KEYS, Input
from vlm2vec.media import Frames, VideoLike
from vlm2vec.parts import PartLike
from vlm2vec.stream_items import Id

T = TypeVar("T")

IdType: TypeAlias = Literal["int64", "string"]
"""The type of the ids of a corpus: integers of 64 bits, or strings that are not empty."""
TEXTS = ("text", "instruction", "prompt")
"""The keys whose values are strings."""
PRESENT_VECTOR = "vector"
"""A further key, which is left alone: the vectors that are to be replaced."""


def parse(
    values: Mapping[str, Any], folder: Path, id_type: IdType, ignore: Collection[str]
) -> tuple[Id, Input]:
    """Returns the id and the input of a row, whose relative paths start in ``folder``.

    A key whose value is None counts as absent. Raises `InvalidInput`, whose message begins with the
    key at fault.
    """
    given = {key: value for key, value in values.items() if value is not None}
    if unknown := unknown_keys(given, ignore):
        raise _bad(unknown[0], f"unknown key; known are {', '.join(KEYS)}")
    if id_type_of(given.get("id")) != id_type:
        kind = "a number of 64 bits" if id_type == "int64" else "a string that is not empty"
        raise _bad("id", f"expected {kind}, as in the first row, got {given.get('id')!r:.80}")
    for key in TEXTS:
        if key in given:
            _check_text(key, given[key])
    if (
        not any(given.get(key) for key in (*MEDIA_KEYS, "parts"))
        and not {"text", "prompt"} & given.keys()
    ):
        raise _bad("text", f"the row has none of text, prompt, parts, {', '.join(MEDIA_KEYS)}")
    try:
        source = Input(
            text=given.get("text"),
            instruction=given.get("instruction"),
            prompt=given.get("prompt"),
            images=_several(given, "image", _media, folder),
            videos=_several(given, "video", _video, folder),
            audios=_several(given, "audio", _media, folder),
            parts=_list(given.get("parts", []), "parts", _part, folder),
        )
    except ValueError as error:
        raise _bad("parts" if given.get("parts") else "prompt", str(error)) from error
    return given["id"], source


def unknown_keys(keys: Collection[str], ignore: Collection[str]) -> list[str]:
    """Returns the keys that a row may not have and that are not to be ignored, sorted."""
    return sorted(set(keys) - {*KEYS, PRESENT_VECTOR, *ignore})


def id_type_of(id: object) -> IdType | None:
    """Returns the type of ids that ``id`` belongs to, or None if it cannot be an id."""
    match id:
        case bool():
            return None
        case int():
            return "int64" if -(2**63) <= id < 2**63 else None
        case str():
            return "string" if id and _is_unicode(id) else None
    return None


def _several(
    given: Mapping[str, Any], one: str, read: Callable[[Any, str, Path], T], folder: Path
) -> list[T]:
    """Returns the media of a kind, which stand under its name, ``one``, or under its plural."""
    if one not in given:
        return _list(given.get(f"{one}s", []), f"{one}s", read, folder)
    if f"{one}s" in given:
        raise _bad(one, f"give either {one} or {one}s")
    return [read(given[one], one, folder)]


def _list(sources: Any, key: str, read: Callable[[Any, str, Path], T], folder: Path) -> list[T]:
    if not isinstance(sources, list):
        raise _bad(key, f"expected a list, got {type(sources).__name__}")
    return [read(source, f"{key}[{i}]", folder) for i, source in enumerate(sources)]


def _part(source: Any, key: str, folder: Path) -> PartLike:
    """Returns a text, or a dict with the only kind that ``source`` is not empty in."""
    if isinstance(source, str):
        source = {"text": source}
    held = (
        [(kind, held) for kind, held in source.items() if held is not None]
        if isinstance(source, dict)
        else []
    )
    match held:
        case [("text", words)]:
            _check_text(f"{key}.text", words)
            return {"text": words}
        case [("image" | "audio" as kind, file)]:
            return {kind: _media(file, f"{key}.{kind}", folder)}
        case [("video", film)]:
            return {"video": _video(film, f"{key}.video", folder)}
    raise _bad(
        key, 'expected a string, {"text": ...}, {"image": ...}, {"video": ...} or {"audio": ...}'
    )


def _video(source: Any, key: str, folder: Path) -> VideoLike:
    """Returns a path, a URL, a file, or frames, which may be a list or have their rate beside."""
    if isinstance(source, list):
        return _list(source, key, _media, folder)
    if not isinstance(source, dict):
        return _media(source, key, folder)
    if unknown := sorted(source.keys() - {"frames", "fps"}):
        raise _bad(f"{key}.{unknown[0]}", "unknown key; known are frames, fps")
    fps = source.get("fps")
    if isinstance(fps, bool) or not isinstance(fps, int | float | None):
        raise _bad(f"{key}.fps", f"expected a number, got {type(fps).__name__}")
    return Frames(_list(source.get("frames"), f"{key}.frames", _media, folder), fps)


def _media(source: Any, key: str, folder: Path) -> Path | str | bytes:
    """Returns a path, which starts in ``folder`` if it is relative, or a URL or the encoded file as
    it is."""
    if isinstance(source, bytes) or (isinstance(source, str) and is_url(source)):
        return source
    if not isinstance(source, str):
        raise _bad(key, f"expected a path, got {type(source).__name__}")
    if not source or "\0" in source or not _is_unicode(source):
        raise _bad(key, f"no path: {source!r:.80}")
    return folder / source


def _check_text(key: str, value: Any) -> None:
    if not isinstance(value, str):
        raise _bad(key, f"expected a string, got {type(value).__name__}")
    if not _is_unicode(value):
        raise _bad(key, "half a surrogate pair cannot be sent")


def _is_unicode(text: str) -> bool:
    """Tells whether ``text`` has a UTF-8 form; a string of JSON need not have one."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bad(key: str, problem: str) -> InvalidInput:
    return InvalidInput(f"{key}: {problem}", field=key)
