"""Pictures of every mode to RGB as a viewer shows them.

Pillow's own ``convert("RGB")`` cuts values of more than 8 bits at 255 and shows what lies below
transparency; everything else it converts as it should.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

BITS, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339
"""Tags of a TIFF: bits of a value, what zero means, and whether values are signed."""
WHITE_IS_ZERO, UNSIGNED = 0, 1
RANGES = (255, 65_535)
"""The whitest values that pictures of 32-bit values mostly have, besides the largest of the type:
they hold values of fewer bits, which nothing in the file says."""
BLOCK = 1 << 20
"""Pixels that are scaled at a time, so that the arithmetic takes little memory."""


def as_viewed(image: Image.Image, data: bytes) -> Image.Image:
    """Converts ``image``, opened from the file ``data``, to RGB; it is not turned.

    Transparent pixels are put on white. A 16-bit value is scaled by the range of its bits, and a
    32-bit one by the smallest of `RANGES` and of its type that the picture's values fit in; for
    floats 1.0 is the smallest. Values below zero are black. Raises what Pillow raises on a damaged
    file.
    """
    image.load()
    if image.mode.startswith("I;16") or image.mode in ("I", "F"):
        return _scaled(image)
    if image.mode in ("La", "RGBa"):  # colors multiplied by their alpha
        image = image.convert(image.mode.upper())
    if not image.has_transparency_data:
        return image if image.mode == "RGB" else image.convert("RGB")
    if image.format == "PNG" and "transparency" in image.info:
        image.info["transparency"] = _in_8_bits(image.info["transparency"], image.mode, data[24])
    return on_white(image.convert("RGBA"))


def on_white(rgba: Image.Image) -> Image.Image:
    """Puts an RGBA picture on white, and returns RGB."""
    white = Image.new("RGB", rgba.size, (255, 255, 255))
    white.paste(rgba, mask=rgba)
    return white


def _in_8_bits(transparent: Any, mode: str, bits: int) -> Any:
    """The transparent value or color of a PNG, which Pillow leaves in the file's own ``bits``
    while it scales the pixels to 8."""
    if mode == "L" and bits < 8:
        return transparent * (255 // ((1 << bits) - 1))
    if mode == "RGB" and bits == 16:
        return tuple(value >> 8 for value in transparent)
    return transparent


def _scaled(image: Image.Image) -> Image.Image:
    """Scales a grey picture of wide values to 8 bits; its transparent value becomes white."""
    tags = getattr(image, "tag_v2", {})
    values = np.asarray(image)
    if image.mode == "I" and tags.get(SAMPLE_FORMAT, (None,))[0] == UNSIGNED:
        values = values.view(np.uint32)  # Pillow has no mode for them
    white = _white(image.mode, values, tags.get(BITS, (None,))[0])
    flat = values.reshape(-1)
    grey = np.empty(flat.shape, np.uint8)
    for start in range(0, len(flat), BLOCK):
        block = flat[start : start + BLOCK].astype(np.float64)
        scaled = np.rint(np.clip(np.nan_to_num(block / white), 0, 1) * 255)
        grey[start : start + BLOCK] = scaled
    if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO:
        grey = 255 - grey
    if "transparency" in image.info:
        grey[flat == image.info["transparency"]] = 255
    return Image.fromarray(grey.reshape(values.shape)).convert("RGB")


def _white(mode: str, values: npt.NDArray[Any], bits: int | None) -> float:
    """Finds the value that is shown as white."""
    if mode.startswith("I;16"):
        return float((1 << (bits or 16)) - 1)
    if mode == "I" and bits == 16:  # they are signed
        return float(np.iinfo(np.int16).max)
    if mode == "I":
        ranges: tuple[float, ...] = (*RANGES, np.iinfo(values.dtype).max)
        largest = float(values.max())
    else:
        ranges = (1.0, *RANGES, float(np.iinfo(np.uint32).max))
        largest = float(np.max(values, initial=0, where=np.isfinite(values)))
    return next((top for top in ranges if largest <= top), largest)
