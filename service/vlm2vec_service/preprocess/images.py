"""Encoded images to RGB pictures, within `Limits`."""

import io

from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.settings import Limits

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""The formats that are decoded; a caller's bytes never reach Pillow's other readers."""

# Pillow's fixed limit would come before `Limits.max_image_pixels`, which `check_size` keeps.
Image.MAX_IMAGE_PIXELS = None


def decode_image(data: bytes, limits: Limits, field: str = "image") -> Image.Image:
    """Decodes ``data`` to an RGB picture.

    The pixel count is checked on the header, before any pixel is decoded. EXIF orientation is
    not applied, as in the models' own training. Raises `InvalidInputError` that names ``field``.
    """
    if len(data) > limits.max_image_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_image_bytes, {limits.max_image_bytes}"
        )
    # Pillow's decoders raise nearly anything on hostile bytes; all of it is the input's fault.
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Exception as error:
        raise InvalidInputError(field, f"no {', '.join(FORMATS)} image") from error
    check_size(image, limits, field)
    try:
        return image.convert("RGB")
    except Exception as error:
        raise InvalidInputError(
            field, f"truncated or damaged {image.format} image: {error}"
        ) from error


def check_size(image: Image.Image, limits: Limits, field: str) -> None:
    """Refuses a picture of more than ``limits.max_image_pixels`` pixels, or of none.

    Raises `InvalidInputError` that names ``field``.
    """
    width, height = image.size
    if not width or not height:
        raise InvalidInputError(field, f"the image is empty ({width}x{height})")
    if width * height > limits.max_image_pixels:
        raise InvalidInputError(
            field,
            f"{width}x{height} pixels are more than max_image_pixels, {limits.max_image_pixels}",
        )
