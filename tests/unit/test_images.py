"""Encoded images to RGB pictures, and what is refused."""

import io
import struct
import zlib
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.unit.pictures import noise
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.images import FORMATS, check_size, measure_image
from vlm2vec_service.settings import Limits

LIMITS = Limits()


def gradient(mode: str) -> Image.Image:
    y, x = np.mgrid[0:48, 0:64]
    rgb = np.stack([x * 3, y * 5, x + y], axis=-1).astype(np.uint8)
    return Image.fromarray(rgb).convert(mode)


def decode_image(
    data: bytes, limits: Limits, field: str = "image", decode: str = "viewed"
) -> Image.Image:
    """Measures and decodes; both sizes have to be the same."""
    measured = measure_image(data, limits, field)
    picture = measured.decoded(decode)
    assert picture.size == measured.size(decode)
    return picture


def encoded(image: Image.Image, format: str) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format)
    return buffer.getvalue()


def png_header_only(width: int, height: int) -> bytes:
    """A valid PNG up to its pixels, which are far fewer than the header says."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", pixels),
            chunk(b"IEND", b""),
        ]
    )


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")),
        *(("BMP", mode) for mode in ("1", "L", "P", "RGB")),
        *(("TIFF", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
        *(("GIF", mode) for mode in ("1", "L", "P")),
    ],
)
def test_lossless_format_gives_the_rgb_pixels_that_were_saved(format: str, mode: str) -> None:
    image = gradient(mode)
    decoded = decode_image(encoded(image, format), LIMITS)
    assert decoded.mode == "RGB"
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(image.convert("RGB")))


@pytest.mark.parametrize(
    ("format", "mode"),
    [
        *(("JPEG", mode) for mode in ("1", "L", "RGB", "CMYK")),
        *(("WEBP", mode) for mode in ("1", "L", "P", "RGB", "RGBA")),
        ("GIF", "RGBA"),
    ],
)
def test_lossy_format_gives_rgb_pixels_near_those_that_were_saved(format: str, mode: str) -> None:
    image = gradient(mode)
    decoded = decode_image(encoded(image, format), LIMITS)
    assert decoded.mode == "RGB"
    expected = np.asarray(image.convert("RGB"), np.float64)
    assert np.abs(np.asarray(decoded) - expected).mean() < 16


def test_raw_transparent_pixels_keep_their_color() -> None:
    image = gradient("RGBA")
    image.putalpha(40)
    decoded = decode_image(encoded(image, "PNG"), LIMITS, decode="raw")
    np.testing.assert_array_equal(np.asarray(decoded), np.asarray(gradient("RGB")))


def test_raw_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    buffer = io.BytesIO()
    gradient("RGB").save(buffer, "JPEG", exif=exif)
    assert decode_image(buffer.getvalue(), LIMITS, decode="raw").size == (64, 48)
    assert decode_image(buffer.getvalue(), LIMITS).size == (48, 64)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "BMP", "TIFF"])
@pytest.mark.parametrize("part", [0.5, 0.9])
def test_truncated_image_is_refused(format: str, part: float) -> None:
    # Noise does not compress: some of it is in every part of the file.
    data = encoded(noise(64, 48), format)
    with pytest.raises(InvalidInputError, match=r"images\[2\]: ") as caught:
        decode_image(data[: int(part * len(data))], LIMITS, "images[2]")
    assert caught.value.field == "images[2]"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0",
        bytes(1000),
        b"no image at all",
        b"\x89PNG\r\n\x1a\n",
        b"\xff\xd8\xff\xe0",
        b"GIF89a",
    ],
)
def test_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match="images") as caught:
        decode_image(data, LIMITS, "images[0]")
    assert caught.value.field == "images[0]"


@pytest.mark.parametrize("format", ["ICO", "PPM", "TGA", "PCX", "EPS", "PDF"])
def test_format_that_is_not_listed_is_refused(format: str) -> None:
    with pytest.raises(InvalidInputError, match=f"no {', '.join(FORMATS)} image"):
        decode_image(encoded(gradient("RGB"), format), LIMITS)


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_bytes_raise_nothing_but_invalid_input(format: str) -> None:
    data = np.frombuffer(encoded(gradient("RGB"), format), np.uint8)
    rng = np.random.default_rng(0)
    # A header that now claims a huge picture is refused, not decoded.
    limits = replace(LIMITS, max_image_pixels=100_000)
    for _ in range(100):
        damaged = data.copy()
        places = rng.integers(0, min(len(data), 400), 3)
        damaged[places] = rng.integers(0, 256, len(places))
        try:
            assert decode_image(damaged.tobytes(), limits).mode == "RGB"
        except InvalidInputError as error:
            assert error.field == "image"  # noqa: PT017 (both outcomes are right)


def test_too_many_bytes_are_refused() -> None:
    data = encoded(gradient("RGB"), "PNG")
    limits = replace(LIMITS, max_image_bytes=len(data))
    assert decode_image(data, limits).size == (64, 48)
    limits = replace(LIMITS, max_image_bytes=len(data) - 1)
    with pytest.raises(InvalidInputError, match=rf"max_image_bytes, {len(data) - 1}\b") as caught:
        decode_image(data, limits, "images[1]")
    assert caught.value.field == "images[1]"


def test_too_many_pixels_are_refused() -> None:
    data = encoded(gradient("RGB"), "PNG")
    assert decode_image(data, replace(LIMITS, max_image_pixels=48 * 64)).size == (64, 48)
    with pytest.raises(InvalidInputError, match=r"64x48 .*max_image_pixels, 3071\b") as caught:
        decode_image(data, replace(LIMITS, max_image_pixels=48 * 64 - 1), "images[1]")
    assert caught.value.field == "images[1]"


# The first is beyond our limit alone, the second where Pillow warns, the last where it refuses.
@pytest.mark.parametrize("side", [8_000, 10_000, 60_000])
@pytest.mark.filterwarnings("error")
def test_decompression_bomb_is_refused_by_our_limit(side: int) -> None:
    with pytest.raises(InvalidInputError, match=rf"{side}x{side} .*max_image_pixels, 50000000\b"):
        decode_image(png_header_only(side, side), LIMITS, "images[0]")


@pytest.mark.filterwarnings("error")
def test_limit_can_be_raised_above_that_of_pillow() -> None:
    limits = replace(LIMITS, max_image_pixels=60_000 * 4_000)
    # Past the size check; only then is it found to be incomplete.
    with pytest.raises(InvalidInputError, match="truncated or damaged PNG"):
        decode_image(png_header_only(60_000, 4_000), limits)


def test_empty_picture_is_refused() -> None:
    with pytest.raises(InvalidInputError, match=r"video\[3\]: the image is empty \(0x5\)"):
        check_size((0, 5), LIMITS, "video[3]")
