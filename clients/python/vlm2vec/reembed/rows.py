"""Rows of a corpus: which keys they may have, and the inputs that they describe."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import is_url
from vlm2vec.inputs import KEYS, Input
from vlm2vec.media import ImageLike, VideoLike
from vlm2vec.stream_items import Id

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
    if "image" in given and "images" in given:
        raise _bad("image", "give either image or images")
    images = [given["image"]] if "image" in given else given.get("images", [])
    video = given.get("video")
    if not (images or video or "text" in given or "prompt" in given):
        raise _bad("text", "the row has none of text, image, images, video and prompt")
    try:
        source = Input(
            text=given.get("text"),
            instruction=given.get("instruction"),
            prompt=given.get("prompt"),
            images=_media_list(images, "image" if "image" in given else "images", folder),
            video=_video(video, folder),
        )
    except ValueError as error:
        raise _bad("prompt", str(error)) from error
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


def _video(source: Any, folder: Path) -> VideoLike | None:
    if isinstance(source, list):
        return _media_list(source, "video", folder)
    return None if source is None else _media(source, "video", folder)


def _media_list(sources: Any, key: str, folder: Path) -> list[ImageLike]:
    if not isinstance(sources, list):
        raise _bad(key, f"expected a list of paths, got {type(sources).__name__}")
    return [_media(source, f"{key}[{i}]", folder) for i, source in enumerate(sources)]


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
