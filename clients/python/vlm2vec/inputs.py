"""Inputs, each of which becomes one vector, and the messages that carry them."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union, cast

import numpy as np
import numpy.typing as npt

from vlm2vec.audio import AudioLike, Samples, audio
from vlm2vec.display import summary
from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import UNLIMITED, Limits
from vlm2vec.media import Frames, ImageLike, VideoLike, image_bytes, is_pixels, video
from vlm2vec.parts import PartLike, check_words, part
from vlm2vec.v1 import embedding_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage


@dataclass(frozen=True)
class Input:
    """Words, images, videos and audios that together become one vector.

    The words are either ``instruction`` and ``text``, which the server joins with the media by the
    prompt template of the model, or ``prompt``. ``parts`` are words and media in an order that says
    something. Raises ValueError for two that say the same in different ways, and TypeError if
    ``images``, ``videos``, ``audios`` or ``parts`` is a single one and not a sequence.
    """

    text: str | None = None
    """The words to embed; None for none."""
    instruction: str | None = None
    """The task, such as "Represent the given image for classification"; None takes the call's."""
    images: Sequence[ImageLike] = ()
    """Paths, URLs or data URIs, which are fetched here, encoded files (bytes), PIL images, or uint8
    RGB arrays ``(height, width, 3)``."""
    video: VideoLike | None = None
    """A path, a URL, an encoded file (bytes), or frames of one size, each as in ``images``, with
    their rate as `Frames`. Its sound is not heard: give the same file in ``audios`` for that."""
    videos: Sequence[VideoLike] = ()
    """Several videos, each as ``video`` may be."""
    audios: Sequence[AudioLike] = ()
    """Paths, URLs or data URIs, encoded files (bytes), or `Samples`."""
    prompt: str | None = None
    """The whole prompt, with the model's own placeholders for the media: images, then videos, then
    audios."""
    parts: Sequence[PartLike] = ()
    """Texts and media in order, in place of ``text`` and the media: ``["look at ", Path("a.png"),
    " and hear ", {"audio": "b.wav"}]``. Models whose form has an order of its own keep to that."""

    def __post_init__(self) -> None:
        for name in ("text", "instruction", "prompt"):
            words = getattr(self, name)
            if words is not None and not isinstance(words, str):
                raise TypeError(f"{name} is {type(words).__name__}, not str")
        if self.prompt is not None and (self.text is not None or self.instruction is not None):
            raise ValueError(
                "a prompt is the whole text: give no text and no instruction beside it"
            )
        if self.video is not None and self.videos:
            raise ValueError("video is one of videos: give either")
        for one in ("image", "video", "audio", "part"):
            many = getattr(self, f"{one}s")
            if isinstance(many, tuple | list):  # asking for a Sequence takes several times as long
                continue
            if isinstance(many, str | bytes | np.ndarray) or not isinstance(many, Sequence):
                raise TypeError(f"{one}s is a sequence: for one {one} write {one}s=[{one}]")
        if self.parts:
            words, media = (
                (self.text, self.prompt, self.video),
                (self.images, self.videos, self.audios),
            )
            if any(one is not None for one in words) or any(map(len, media)):
                raise ValueError("parts are all of an input: give its texts and media as parts")

    def __repr__(self) -> str:
        return f"<Input {summary(self)}>"


InputLike: TypeAlias = Union[
    Input, str, "os.PathLike[str]", "PILImage", npt.NDArray[np.uint8], Mapping[str, Any]
]
"""An `Input`; a string, which stands for a text; a pathlib.Path, a PIL image or an array, which is
an image; or a row with the keys `KEYS`."""
MEDIA_KEYS = ("image", "images", "video", "videos", "audio", "audios")
"""The keys of a row that hold media: one of a kind, or several."""
KEYS = ("id", "text", "instruction", "prompt", "parts", *MEDIA_KEYS)
"""The keys that a row may have."""
_TAKEN = (
    "an input is a text (str), a picture (pathlib.Path, PIL image, uint8 array), a row (dict with "
    f"any of {', '.join(KEYS)}) or vlm2vec.Input, which takes encoded files and URLs as well: "
    "Input(images=[...]), Input(video=...), Input(audios=[...])"
)


def as_input(item: InputLike, name: str) -> Input:
    """Returns the `Input` that ``item``, called ``name`` in errors, stands for.

    Raises TypeError for what is no input, and `InvalidInput` for a string that is only a URL.
    """
    if isinstance(item, str):
        media = "Input(images=[...]), Input(video=...) or Input(audios=[...])"
        check_words(item, name, media, "Input(text=...)")
        return Input(text=item)
    if isinstance(item, Input):
        return item
    if hasattr(item, "as_py"):  # a scalar of pyarrow
        return as_input(item.as_py(), name)
    if is_series(item):
        return as_input(cast(Any, item).to_dict(), name)
    if isinstance(item, Mapping):
        return _from_row(item, name)
    if isinstance(item, os.PathLike) or is_pixels(item):
        return Input(images=[item])
    raise TypeError(f"{name} is {type(item).__name__}: {_TAKEN}")


def is_series(value: object) -> bool:
    """Tells whether ``value`` is a Series of pandas, which is a column or a row."""
    return hasattr(value, "to_dict") and hasattr(value, "keys") and not hasattr(value, "itertuples")


def _from_row(row: Mapping[str, Any], name: str) -> Input:
    """Returns the input that a row of a table describes; None and NaN count as absent."""
    if unknown := [str(key) for key in row if key not in KEYS]:
        raise TypeError(
            f"{name} has the key {', '.join(unknown)}: a row has {', '.join(KEYS)}; leave others "
            "out, as in frame[['id', 'text']]"
        )
    given = {key: value for key, value in row.items() if key != "id" and not _is_missing(value)}
    for one, many in zip(MEDIA_KEYS[::2], MEDIA_KEYS[1::2], strict=True):
        if one in given:
            if many in given:
                raise ValueError(f"{name} has both {one} and {many}: give either")
            given[many] = [given.pop(one)]
        if many in given and not isinstance(given[many], str | bytes | Mapping):
            given[many] = [_media(cell) for cell in given[many]]
    if "parts" in given:
        given["parts"] = [_part(cell) for cell in given["parts"]]
    return Input(**given)


def _part(value: Any) -> Any:
    """Returns what a cell of parts holds; a table has all kinds in a row, and the others empty."""
    if not isinstance(value, Mapping):
        return value
    return {kind: _media(cell) for kind, cell in value.items() if not _is_missing(cell)}


def _media(value: Any) -> Any:
    """Returns what a cell holds. ``datasets`` has a file that it has not decoded, and samples, as
    dicts; frames with their rate are one as well."""
    if not isinstance(value, Mapping):
        return value
    if value.keys() == {"bytes", "path"}:
        return value["path"] if value["bytes"] is None else value["bytes"]
    if value.keys() >= {"array", "sampling_rate"}:
        return Samples(value["array"], value["sampling_rate"])
    if {"frames"} <= value.keys() <= {"frames", "fps"}:
        return Frames([_media(frame) for frame in value["frames"]], value.get("fps"))
    return value


def _is_missing(value: object) -> bool:
    """Tells whether a cell is empty, in the ways that pandas has for that."""
    is_nan = isinstance(value, float) and math.isnan(value)
    return value is None or is_nan or type(value).__name__ in ("NAType", "NaTType")


def to_proto(
    item: InputLike,
    instruction: str | None,
    limits: Limits = UNLIMITED,
    name: str = "the input",
) -> pb.Input:
    """Returns the message for ``item``, which is called ``name`` in errors.

    ``instruction`` is for one that has none and no prompt. Reads files, fetches URLs and encodes
    pixels. Raises TypeError for what is no input, and `InvalidInput` for a file that cannot be
    read, pixels of a wrong shape, half a surrogate pair, and a message above the limit.
    """
    source = as_input(item, name)
    told = instruction if source.instruction is None and source.prompt is None else None
    if not isinstance(told, str | None):
        raise TypeError(f"instruction is {type(told).__name__}, not str")
    try:
        message = pb.Input(
            parts=_parts(source, limits),
            prompt=source.prompt,
            instruction=source.instruction or told or "",
        )
    except UnicodeEncodeError as error:
        raise InvalidInput("half a surrogate pair cannot be sent") from error
    if message.ByteSize() > limits.message_bytes:
        raise InvalidInput(
            f"an input of {message.ByteSize()} bytes is above the limit of "
            f"{limits.message_bytes} a message"
        )
    return message


def has_media(item: object) -> bool:
    """Tells whether files may be read or pixels encoded to make the message of ``item``.

    ``item`` is an `InputLike`, or a pair of an id and one.
    """
    if isinstance(item, tuple) and item:
        return has_media(item[-1])
    if isinstance(item, Input):
        media = item.images or item.videos or item.audios or item.parts
        return bool(media) or item.video is not None
    if isinstance(item, Mapping):
        return "parts" in item or not set(MEDIA_KEYS).isdisjoint(item)
    return not isinstance(item, str)


def _parts(source: Input, limits: Limits) -> Iterator[pb.Part]:
    """Yields the parts of a message: in the caller's order, or the media first, as in a prompt."""
    for index, given in enumerate(source.parts):
        yield part(given, f"parts[{index}]", limits)
    for index, image in enumerate(source.images):
        yield pb.Part(image=image_bytes(image, f"images[{index}]", limits))
    if source.video is not None:
        yield pb.Part(video=video(source.video, "video", limits))
    for index, film in enumerate(source.videos):
        yield pb.Part(video=video(film, f"videos[{index}]", limits))
    for index, one in enumerate(source.audios):
        yield pb.Part(audio=audio(one, f"audios[{index}]", limits))
    if source.text is not None:
        yield pb.Part(text=source.text)
