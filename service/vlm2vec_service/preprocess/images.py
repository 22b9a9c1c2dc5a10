"""Encoded images: measured within `Limits` when they come, decoded when their pixels are needed."""

import io
import struct
from dataclasses import dataclass, field

from PIL import ExifTags, Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.viewed import as_viewed
from vlm2vec_service.settings import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are decoded; a caller's bytes never reach Pillow's other readers."""
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What turns a picture as a viewer shows it, by its EXIF orientation; 1 is as it is."""
ON_THEIR_SIDE = (5, 6, 7, 8)
"""The orientations whose turn swaps width and height."""

# Pillow's fixed limit would come before `Limits.max_image_pixels`, which `check_size` keeps.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class EncodedImage:
    """An image file as it came, measured by its header and not decoded.

    ``stored`` is its width and height before it is turned by ``orientation``, its EXIF orientation
    from 1 to 8; ``field`` is where it stands in the input, for errors.
    """

    data: bytes = field(repr=False)
    field: str
    stored: tuple[int, int]
    orientation: int

    def size(self, decode: str) -> tuple[int, int]:
        """Tells the width and height of what `decoded` returns."""
        width, height = self.stored
        turned = decode != "raw" and self.orientation in ON_THEIR_SIDE
        return (height, width) if turned else (width, height)

    def decoded(self, decode: str) -> Image.Image:
        """Decodes the image to an RGB picture as ``decode`` says.

        ``viewed`` is as a viewer shows it: turned, on white where it is transparent, the whole
        range of its values used. ``raw`` is Pillow's bare ``convert("RGB")``. Raises
        `InvalidInputError` that names the field.
        """
        image = _open(self.data, self.field)
        try:
            if decode == "raw":
                return image.convert("RGB")
            rgb = as_viewed(image, self.data)
            turn = TURNS.get(self.orientation)
            return rgb if turn is None else rgb.transpose(turn)
        except Exception as error:
            raise _damaged(image, self.field, error) from error


def measure_image(data: bytes, limits: Limits, field: str = "image") -> EncodedImage:
    """Checks the size of the image in ``data`` on its header, before any pixel is decoded.

    Raises `InvalidInputError` that names ``field``.
    """
    if len(data) > limits.max_image_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_image_bytes, {limits.max_image_bytes}"
        )
    image = _open(data, field)
    check_size(image.size, limits, field)
    return EncodedImage(data, field, image.size, _orientation(image, data, field))


def check_size(size: tuple[int, int], limits: Limits, field: str) -> None:
    """Refuses a picture of more than ``limits.max_image_pixels`` pixels, or of none.

    Raises `InvalidInputError` that names ``field``.
    """
    width, height = size
    if not width or not height:
        raise InvalidInputError(field, f"the image is empty ({width}x{height})")
    if width * height > limits.max_image_pixels:
        raise InvalidInputError(
            field,
            f"{width}x{height} pixels are more than max_image_pixels, {limits.max_image_pixels}",
        )


def _open(data: bytes, field: str) -> Image.Image:
    # Pillow's readers raise nearly anything on hostile bytes; all of it is the input's fault.
    try:
        return Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise InvalidInputError(field, f"no {', '.join(FORMATS)} image") from error


def _damaged(image: Image.Image, field: str, error: Exception) -> InvalidInputError:
    return InvalidInputError(field, f"truncated or damaged {image.format} image: {error}")


def _orientation(image: Image.Image, data: bytes, field: str) -> int:
    """Reads the EXIF orientation of an image that has just been opened."""
    if image.format == "TIFF":  # Pillow turns it itself
        return 1
    if image.format == "PNG" and _metadata_behind_pixels(data):
        try:
            image.load()
        except Exception as error:
            raise _damaged(image, field, error) from error
    try:
        # PNG's own method would decode every PNG, to find what stands behind the pixels.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except Exception:  # noqa: BLE001 (damaged metadata, which viewers pass over)
        return 1
    return found if isinstance(found, int) and found in TURNS else 1


def _metadata_behind_pixels(png: bytes) -> bool:
    """Says whether a chunk that can hold an orientation follows the pixels of ``png``."""
    place, pixels = 8, False
    while place + 8 <= len(png):
        length, kind = struct.unpack_from(">I4s", png, place)
        if pixels and kind in (b"eXIf", b"iTXt", b"tEXt", b"zTXt"):
            return True
        pixels = pixels or kind == b"IDAT"
        place += 12 + length
    return False
