"""Turns images and videos into the encoded bytes that travel."""

import io
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, Union

import numpy as np
import numpy.typing as npt

from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import Limits, fetched, is_url
from vlm2vec.v1 import embedding_pb2 as pb

if TYPE_CHECKING:
    from PIL.Image import Image as PILImage

FilePath: TypeAlias = Union[str, "os.PathLike[str]"]
"""The path of a file."""
ImageLike: TypeAlias = Union[FilePath, bytes, "PILImage", npt.NDArray[np.uint8]]
"""A path, a URL or data URI, an encoded file, a PIL image, or uint8 RGB pixels
``(height, width, 3)``."""


@dataclass(frozen=True, eq=False)
class Frames:
    """The frames of a video with their rate, by which some models place them in time."""

    images: "Sequence[ImageLike] | npt.NDArray[np.uint8]"
    """The frames, of one size, in order."""
    fps: float | None = None
    """How many are shown in a second, from 0.001 to 1000; None does not say."""


VideoLike: TypeAlias = FilePath | bytes | Sequence[ImageLike] | npt.NDArray[np.uint8] | Frames
"""A path, a URL or data URI, an encoded file, or frames of one size, in order, with their rate or
without."""

# What PNG and TIFF store as it is; the rest is converted to RGB, as the server would.
_PNG_MODES = {"1", "L", "LA", "P", "RGB", "RGBA", "I;16"}
_TIFF_MODES = {"I", "F", "I;16B"}
_STRAIGHT = {"PA": "RGBA", "La": "LA", "RGBa": "RGBA"}
"""The modes with alpha that neither stores, and those that say the same."""
_ORIENTATION = 0x0112
"""EXIF's tag for how a picture is turned to be seen."""


def is_pixels(value: object) -> bool:
    """Tells whether ``value`` is one picture: a PIL image, or an array that is no list of them."""
    # An image of PIL exists only where PIL has been imported.
    pil = sys.modules.get("PIL.Image")
    if pil is not None and isinstance(value, pil.Image):
        return True
    return isinstance(value, np.ndarray) and value.ndim in (2, 3)


def image_bytes(image: ImageLike, field: str, limits: Limits) -> bytes:
    """Returns the encoded image: files as they are, pixels as PNG, or as TIFF where PNG has not
    their range.

    A PIL image keeps its range of values, its transparency and its EXIF orientation, so that it
    means what its file would.

    Raises `InvalidInput`, naming ``field``, where the file cannot be read or the array is not
    uint8 RGB, TypeError for anything else, and ImportError for an array without Pillow.
    """
    if isinstance(image, bytes | str | os.PathLike):
        return file_bytes(image, field, limits)
    if isinstance(image, np.ndarray):
        return _encoded(_from_array(image, field))
    if is_pixels(image):
        return _encoded(image)
    raise TypeError(
        f"{field} is {type(image).__name__}, which is none of: the path or URL of a picture (str, "
        "pathlib.Path), its encoded file (bytes), a PIL image, a uint8 array"
    )


def video(source: VideoLike, field: str, limits: Limits) -> pb.Video:
    """Returns the message for a video; raises what `image_bytes` raises."""
    if isinstance(source, bytes | str | os.PathLike):
        return pb.Video(file=file_bytes(source, field, limits))
    images, fps = (source.images, source.fps) if isinstance(source, Frames) else (source, None)
    if isinstance(images, Mapping) or is_pixels(images) or not isinstance(images, Iterable):
        raise TypeError(
            f"{field} is {type(images).__name__}, which is none of: the path or URL of a video "
            "(str, pathlib.Path), its encoded file (bytes), a list of pictures, its frames, "
            "vlm2vec.Frames([...], fps=2)"
        )
    if fps is not None and not fps > 0:  # which would travel as a rate that is not said
        raise InvalidInput(f"{field}: fps is {fps}, not above 0", field=field)
    frames = [image_bytes(frame, f"{field}[{index}]", limits) for index, frame in enumerate(images)]
    return pb.Video(frames=pb.Frames(images=frames, fps=fps or 0.0))


def file_bytes(source: FilePath | bytes, field: str, limits: Limits) -> bytes:
    """Returns what a file holds or a URL points to, or bytes as they are.

    Raises `InvalidInput`, naming ``field``, where the file cannot be read.
    """
    if isinstance(source, bytes):
        return source
    if isinstance(source, str) and is_url(source):
        return fetched(source, field, limits)
    path = os.fspath(source)
    try:
        with open(path, "rb") as file:
            return file.read()
    except (OSError, ValueError) as error:  # ValueError is a path with a NUL
        reason = getattr(error, "strerror", None) or str(error)
        message = f"{field}: cannot read {path!r}: {reason}"
        if path.startswith(("http:/", "https:/")):
            message += "; a URL is a str, not a pathlib.Path: Input(images=['https://...'])"
        raise InvalidInput(message, field=field) from error


def _from_array(array: npt.NDArray[Any], field: str) -> "PILImage":
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        message = f"{field}: not uint8 (height, width, 3) but {array.dtype} {array.shape}"
        raise InvalidInput(message, field=field)
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("arrays need Pillow: pip install 'vlm2vec-client[extras]'") from error
    return Image.fromarray(np.ascontiguousarray(array))


def _encoded(image: "PILImage") -> bytes:
    buffer = io.BytesIO()
    image.load()  # a TIFF is turned then, and forgets its orientation
    exif = image.getexif()
    kept = type(exif)()
    if _ORIENTATION in exif:
        kept[_ORIENTATION] = exif[_ORIENTATION]
    if image.mode in _TIFF_MODES:
        image.save(buffer, "TIFF", exif=kept)
        return buffer.getvalue()
    if image.mode in _STRAIGHT:
        image = image.convert(_STRAIGHT[image.mode])
    elif image.mode not in _PNG_MODES:
        image = image.convert("RGB")
    # Lossless at any level; the lowest is several times faster and little larger.
    image.save(buffer, "PNG", compress_level=1, exif=kept)
    return buffer.getvalue()
