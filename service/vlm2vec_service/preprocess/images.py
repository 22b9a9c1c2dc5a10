"""Encoded images: measured within `Limits` when they come, decoded when their pixels are needed."""

import dataclasses
import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import ExifTags, Image
from PIL.ImageFile import ImageFile

from vlm2vec_service.errors import InvalidInputError, ServeError
from vlm2vec_service.preprocess import apart, heic
from vlm2vec_service.preprocess.apart import SMALL_PIXELS, decode_apart
from vlm2vec_service.preprocess.stop import NEVER, Stop, StoppableFile
from vlm2vec_service.preprocess.viewed import as_viewed
from vlm2vec_service.settings import Limits

HEIC = ("HEIF",) if heic.register() else ()
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", *HEIC)
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
MOST_SCANS = 32
"""Scans of a JPEG at most; encoders make about ten. Each goes through the whole picture, however
few bytes it has."""
MARKER = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])", re.DOTALL)
"""A marker of a JPEG that a length follows, or `END`."""
SCAN, END = b"\xda", b"\xd9"
TILE = (322, 323)
"""Tags of a TIFF: width and length of its tiles, where it has any."""
BLOCK = 8192
"""Bytes that Pillow decodes at a time: between two of them decoding can stop."""

# Pillow's fixed limit would come before `Limits.max_image_pixels`, which `check_size` keeps.
Image.MAX_IMAGE_PIXELS = None


@dataclass(frozen=True)
class EncodedImage:
    """An image file as it came, measured by its header and not decoded.

    ``stored`` is its width and height before it is turned by ``orientation``, its EXIF orientation
    from 1 to 8; ``field`` is where it stands in the input, for errors; ``stop`` says until when it
    may be decoded.
    """

    data: bytes = dataclasses.field(repr=False)
    field: str
    stored: tuple[int, int]
    orientation: int
    stop: Stop = NEVER
    opened: list[ImageFile] = dataclasses.field(default_factory=list, repr=False, compare=False)
    """The reader of the header, where it can read the pixels as well: once."""

    def size(self, decode: str) -> tuple[int, int]:
        """Tells the width and height of what `decoded` returns."""
        width, height = self.stored
        turned = decode != "raw" and self.orientation in ON_THEIR_SIDE
        return (height, width) if turned else (width, height)

    def decoded(self, decode: str) -> Image.Image:
        """Decodes the image to an RGB picture as ``decode`` says.

        ``viewed`` is as a viewer shows it: turned, on white where it is transparent, the whole
        range of its values used. ``raw`` is Pillow's bare ``convert("RGB")``. Raises
        `InvalidInputError` that names the field, and what `Stop.check` does.
        """
        opened = self.opened.pop() if self.opened else _open(self.data, self.field, self.stop)
        image: Image.Image = opened
        with _damage_named(image, self.field):
            small = image.format == "WEBP" and image.width * image.height <= SMALL_PIXELS
            if image.format in apart.FORMATS and not small:
                image = decode_apart(image, self.data, self.stop, self.field)
            if decode == "raw":
                image.load()
                return image if image.mode == "RGB" else image.convert("RGB")
            rgb = as_viewed(image, self.data)
            turn = TURNS.get(self.orientation)
            return rgb if turn is None else rgb.transpose(turn)


def measure_image(
    data: bytes, limits: Limits, field: str = "image", stop: Stop = NEVER
) -> EncodedImage:
    """Checks the size of the image in ``data`` on its header, before any pixel is decoded.

    Raises `InvalidInputError` that names ``field``, and what `Stop.check` does.
    """
    if len(data) > limits.max_image_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_image_bytes, {limits.max_image_bytes}"
        )
    image, opened = _open(data, field, stop), []
    check_size(image.size, limits, field)
    if image.format in ("JPEG", "MPO"):
        _check_scans(data, field)
        opened.append(image)
    if image.format == "TIFF":
        _check_tile(image, limits, field)
    orientation = _orientation(image, data, field)
    return EncodedImage(data, field, image.size, orientation, stop, opened)


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


def check_pixels(pixels: int, limits: Limits, field: str) -> None:
    """Refuses pictures that have together more ``pixels`` than ``limits.max_decoded_pixels``.

    Raises `InvalidInputError` that names ``field``.
    """
    if pixels > limits.max_decoded_pixels:
        raise InvalidInputError(
            field,
            f"{pixels} pixels in all are more than max_decoded_pixels, {limits.max_decoded_pixels}",
        )


def _open(data: bytes, field: str, stop: Stop) -> ImageFile:
    # Pillow's readers raise nearly anything on hostile bytes; all of it is the input's fault.
    try:
        image = Image.open(StoppableFile(data, stop, field), formats=FORMATS)
    except ServeError:
        raise
    except Exception as error:
        missing = not HEIC and heic.is_heic(data)
        problem = heic.MISSING if missing else f"no {', '.join(FORMATS)} image"
        raise InvalidInputError(field, problem) from error
    image.decodermaxblock = BLOCK
    return image


@contextmanager
def _damage_named(image: Image.Image, field: str) -> Iterator[None]:
    """Turns whatever Pillow raises on the pixels of ``image`` into `InvalidInputError`."""
    try:
        yield
    except ServeError:
        raise
    except Exception as error:
        raise InvalidInputError(
            field, f"truncated or damaged {image.format} image: {error}"
        ) from error


def _check_scans(jpeg: bytes, field: str) -> None:
    """Refuses a JPEG of more than `MOST_SCANS` scans, by its markers up to the end of the image:
    what other files append to one may look like anything."""
    scans, marker = 0, MARKER.search(jpeg, 2)
    while marker is not None and marker[1] != END:
        scans += marker[1] == SCAN
        if scans > MOST_SCANS:
            raise InvalidInputError(field, f"a JPEG of more than {MOST_SCANS} scans")
        length = int.from_bytes(jpeg[marker.end() : marker.end() + 2], "big")
        marker = MARKER.search(jpeg, marker.end() + length)


def _check_tile(tiff: Image.Image, limits: Limits, field: str) -> None:
    """Refuses a TIFF whose tiles are too large: however small the picture, each is decoded whole.
    Strips are never larger than it."""
    sides = [getattr(tiff, "tag_v2", {}).get(tag, 1) for tag in TILE]
    if not all(isinstance(side, int) for side in sides):
        raise InvalidInputError(field, "damaged TIFF image: its tiles have no size")
    if sides[0] * sides[1] > limits.max_image_pixels:
        raise InvalidInputError(
            field,
            f"tiles of {sides[0]}x{sides[1]} pixels are more than max_image_pixels, "
            f"{limits.max_image_pixels}",
        )


def _orientation(image: Image.Image, data: bytes, field: str) -> int:
    """Reads the EXIF orientation of an image that has just been opened."""
    if image.format in ("TIFF", "HEIF"):  # turned by their decoders
        return 1
    if image.format == "AVIF":  # Pillow makes its turn one of EXIF, and nothing else is meant to
        image.info.pop("xmp", None)
    if image.format == "PNG" and _metadata_behind_pixels(data):
        with _damage_named(image, field):
            image.load()
    try:
        # PNG's own method would decode every PNG, to find what stands behind the pixels.
        found = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
    except ServeError:
        raise
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
