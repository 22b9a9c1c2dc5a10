"""The parts of an input in the caller's order, and the messages that carry them."""

import os
import re
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from vlm2vec.audio import Samples, audio
from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import Limits
from vlm2vec.media import Frames, image_bytes, is_pixels, video
from vlm2vec.v1 import embedding_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

PartLike: TypeAlias = Union[
    str, "os.PathLike[str]", "PILImage", npt.NDArray[np.uint8], Frames, Samples, Mapping[str, Any]
]
"""A string, which is a text; a pathlib.Path, a PIL image or an array, which is an image; `Frames`,
which are a video; `Samples`, which are an audio; or a dict that says what it is by its only key,
one of "text", "image", "video" and "audio"."""

_MEDIA_TEXT = re.compile(
    r"\s*(?:data:(?:image|video|audio)/[\w.+-]+[^,\s]*,|https?://[^\s?#]+\."
    r"(?:jpe?g|png|webp|gif|bmp|tiff?|avif|hei[cf]|mp4|m4v|webm|mov|mkv|avi|"
    r"wav|flac|mp3|ogg|oga|opus|m4a|aac)(?:[?#]\S*)?\s*$)",
    re.IGNORECASE,
)
"""How a string starts that is a data URI, or that is the URL of a picture, video or audio alone."""


def check_words(words: str, name: str, media: str, text: str) -> None:
    """Raises `InvalidInput` for a string, called ``name``, that is a data URI or the URL of a
    picture, video or audio and nothing else.

    It may be meant either way, and the words of somebody else must not make this process fetch
    anything. The error says what to write for the ``media``, and for the ``text``.
    """
    if _MEDIA_TEXT.match(words):
        raise InvalidInput(
            f"{name}: a data URI or a URL would be embedded as text; write {media} for what it "
            f"holds, or {text} for its characters",
            field=name,
        )


def part(source: PartLike, field: str, limits: Limits) -> pb.Part:
    """Returns the message for a part; reads files, fetches URLs and encodes pixels.

    Raises TypeError for what is no part, and `InvalidInput` for what cannot be read; both name
    ``field``, with the kind of part where a dict says it.
    """
    if isinstance(source, str):
        check_words(
            source, field, '{"image": ...}, {"video": ...} or {"audio": ...}', '{"text": ...}'
        )
        return pb.Part(text=source)
    if isinstance(source, Frames):
        return pb.Part(video=video(source, field, limits))
    if isinstance(source, Samples):
        return pb.Part(audio=audio(source, field, limits))
    if isinstance(source, Mapping):
        kind = next(iter(source)) if len(source) == 1 else None
        if kind in _MAKERS:
            return _MAKERS[kind](source[kind], f"{field}.{kind}", limits)
    elif isinstance(source, os.PathLike) or is_pixels(source):
        return pb.Part(image=image_bytes(source, field, limits))
    raise TypeError(
        f"{field} is {type(source).__name__}, which is none of: a text (str), a picture "
        '(pathlib.Path, PIL image, uint8 array), vlm2vec.Frames, vlm2vec.Samples, {"text": ...}, '
        '{"image": ...}, {"video": ...}, {"audio": ...}'
    )


def _text(value: Any, field: str, limits: Limits) -> pb.Part:
    if not isinstance(value, str):
        raise TypeError(f"{field} is {type(value).__name__}, not str")
    return pb.Part(text=value)


_MAKERS: dict[str, Callable[[Any, str, Limits], pb.Part]] = {
    "text": _text,
    "image": lambda value, field, limits: pb.Part(image=image_bytes(value, field, limits)),
    "video": lambda value, field, limits: pb.Part(video=video(value, field, limits)),
    "audio": lambda value, field, limits: pb.Part(audio=audio(value, field, limits)),
}
