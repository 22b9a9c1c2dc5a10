"""Pictures of every mode as a viewer shows them, beside Pillow's bare conversion."""

import io
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageOps

from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.settings import Limits

CASES = Path(__file__).parent / "data" / "pictures"
COLORS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
ALPHA = np.tile(np.array([0, 255, 128], np.uint8), (6, 3))


def decoded(data: bytes, decode: str = "viewed") -> npt.NDArray[np.int_]:
    picture = measure_image(data, Limits()).decoded(decode)
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def saved(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def grey(values: Any) -> list[list[list[int]]]:
    """The RGB pixels of a picture of one line."""
    return [[[value] * 3 for value in values]]


def png(bits: int, color: int, line: bytes, width: int, transparent: bytes = b"") -> bytes:
    """A PNG of one line, of any bit depth and with any ``tRNS``, which Pillow does not write."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, 1, bits, color, 0, 0, 0)),
        (b"tRNS", transparent),
        (b"IDAT", zlib.compress(b"\0" + line)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks
        if data or kind == b"IEND"
    )


RAMP = (0, 257, 257 * 100, 257 * 100 + 127, 257 * 100 + 130, 65535)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_is_divided_by_257(format: str) -> None:
    image = Image.fromarray(np.array([RAMP], np.uint16))
    assert image.mode == "I;16"
    assert decoded(saved(image, format)).tolist() == grey([0, 1, 100, 100, 101, 255])
    assert decoded(saved(image, format), "raw").max(axis=2)[0, 2] == 255


def test_case_of_16_bit_grey() -> None:
    data = (CASES / "grey-16-bit.png").read_bytes()
    stored = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    np.testing.assert_array_equal(decoded(data)[:, :, 0], np.rint(stored / 257))


def tiff(values: Any, dtype: str, photometric: int = 1) -> bytes:
    """A TIFF of one line of values of any type, of which Pillow writes only some."""
    array = np.array(values, dtype)
    kind = {"u": 1, "i": 2, "f": 3}[array.dtype.kind]
    tags = {
        256: len(array), 257: 1, 258: array.itemsize * 8, 259: 1, 262: photometric, 273: 8,
        277: 1, 278: 1, 279: array.nbytes, 339: kind,
    }  # fmt: skip
    data = array.tobytes() + b"\0" * (array.nbytes % 2)
    tags_at = 8 + len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return (
        struct.pack("<2sHI", b"II", 42, tags_at) + data + struct.pack("<H", len(tags)) + entries
    ) + bytes(4)


TOP, UTOP = 2**31 - 1, 2**32 - 1


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([0, 32767, 65535], "<u2", [0, 127, 255]),
        ([-5, 0, 16384, 32767], "<i2", [0, 0, 128, 255]),
        ([0, TOP // 3, TOP], "<i4", [0, 85, 255]),
        ([-TOP, 0, TOP], "<i4", [0, 0, 255]),
        ([0, UTOP // 3, UTOP], "<u4", [0, 85, 255]),
        # 32 bits that hold values of fewer.
        ([0, 100, 255], "<i4", [0, 100, 255]),
        ([0, 25700, 65535], "<i4", [0, 100, 255]),
        ([0, 25700, 65535], "<u4", [0, 100, 255]),
        ([0.0, 0.2, 1.0], "<f4", [0, 51, 255]),
        ([-3.0, 0.2, 0.6], "<f4", [0, 51, 153]),
        ([0.0, 100.4, 200.0], "<f4", [0, 100, 200]),
        ([0.0, 25700.0, 65000.0], "<f4", [0, 100, 253]),
        ([float("nan"), float("inf"), 0.2, -float("inf")], "<f4", [0, 255, 51, 0]),
        ([0.0, 1e30, 2e30], "<f4", [0, 128, 255]),
        ([0.0, 0.0], "<f4", [0, 0]),
    ],
)
def test_wide_values_are_scaled_by_their_range(values: Any, dtype: str, expected: Any) -> None:
    assert decoded(tiff(values, dtype)).tolist() == grey(expected)


@pytest.mark.parametrize(("values", "dtype"), [([0, 65535], "<u2"), ([0.0, 1.0], "<f4")])
def test_wide_values_where_zero_is_white(values: Any, dtype: str) -> None:
    assert decoded(tiff(values, dtype, photometric=0)).tolist() == grey([255, 0])


@pytest.mark.parametrize("values", [np.arange(54).reshape(6, 9) / 53, np.linspace(0, 1, 54)[None]])
def test_float_tiff_that_pillow_wrote(values: npt.NDArray[np.float64]) -> None:
    image = Image.fromarray(values.astype(np.float32))
    expected = np.rint(values.astype(np.float32) * 255)
    np.testing.assert_allclose(decoded(saved(image, "TIFF"))[:, :, 0], expected, atol=1)


def on_white(colors: Any, alpha: Any) -> npt.NDArray[np.float64]:
    share = alpha[:, :, None] / 255
    result: npt.NDArray[np.float64] = colors * share + 255 * (1 - share)
    return result


@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_colors_with_alpha_are_put_on_white(format: str) -> None:
    image = Image.fromarray(np.dstack([COLORS, ALPHA]))
    options = {"lossless": True, "exact": True} if format == "WEBP" else {}
    data = saved(image, format, **options)
    np.testing.assert_allclose(decoded(data), on_white(COLORS, ALPHA), atol=1)
    np.testing.assert_array_equal(decoded(data)[:, 1::3], COLORS[:, 1::3])
    np.testing.assert_array_equal(decoded(data)[:, 0::3], 255)
    np.testing.assert_array_equal(decoded(data, "raw"), COLORS)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_grey_with_alpha_is_put_on_white(format: str) -> None:
    image = Image.merge("LA", [Image.fromarray(COLORS[:, :, 0]), Image.fromarray(ALPHA)])
    expected = on_white(COLORS[:, :, :1].repeat(3, 2), ALPHA)
    np.testing.assert_allclose(decoded(saved(image, format)), expected, atol=1)


def palette(transparency: int | bytes | None) -> Image.Image:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


@pytest.mark.parametrize(
    ("format", "transparency", "expected"),
    [
        ("PNG", None, [[10, 20, 30], [40, 50, 60], [70, 80, 90]]),
        ("PNG", 1, [[10, 20, 30], [255, 255, 255], [70, 80, 90]]),
        ("PNG", b"\0\xff\0", [[255, 255, 255], [40, 50, 60], [255, 255, 255]]),
        ("PNG", b"\xff\x66", [[10, 20, 30], [169, 173, 177], [70, 80, 90]]),
        ("GIF", None, [[10, 20, 30], [40, 50, 60], [70, 80, 90]]),
        ("GIF", 0, [[255, 255, 255], [40, 50, 60], [70, 80, 90]]),
    ],
)
def test_palette(format: str, transparency: Any, expected: Any) -> None:
    data = saved(palette(transparency), format)
    assert decoded(data).tolist() == [expected]
    assert decoded(data, "raw").tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


@pytest.mark.parametrize(
    ("bits", "color", "line", "width", "transparent", "expected"),
    [
        (1, 0, b"\x40", 2, b"\0\1", grey([0, 255])),
        (1, 0, b"\x40", 2, b"\0\0", grey([255, 255])),
        (2, 0, b"\x18", 3, b"\0\1", grey([0, 255, 170])),
        (4, 0, b"\x3a", 2, b"\0\3", grey([255, 170])),
        (8, 0, b"\x03\x0a", 2, b"\0\3", grey([255, 10])),
        (16, 0, b"\x01\x01\x64\x64", 2, b"\x01\x01", grey([255, 100])),
        (8, 2, b"\1\2\3\4\5\6", 2, b"\0\1\0\2\0\3", [[[255, 255, 255], [4, 5, 6]]]),
        (
            16, 2, b"\1\1\2\2\3\3\4\4\5\5\6\6", 2, b"\1\1\2\2\3\3",
            [[[255, 255, 255], [4, 5, 6]]],
        ),
    ],
)  # fmt: skip
def test_transparent_value_of_a_png(
    bits: int, color: int, line: bytes, width: int, transparent: bytes, expected: Any
) -> None:
    assert decoded(png(bits, color, line, width, transparent)).tolist() == expected


def test_case_of_transparency() -> None:
    data = (CASES / "transparent-over-black.png").read_bytes()
    rgba = np.asarray(Image.open(io.BytesIO(data)).convert("RGBA")).astype(int)
    np.testing.assert_allclose(decoded(data), on_white(rgba[:, :, :3], rgba[:, :, 3]), atol=1)


@pytest.mark.parametrize(
    ("format", "options"), [("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True, "exact": True})]
)
def test_first_frame_of_an_animation(format: str, options: dict[str, Any]) -> None:
    first, second = palette(0).convert("RGBA"), palette(None).convert("RGBA").rotate(180)
    data = saved(first, format, save_all=True, append_images=[second], **options)
    assert decoded(data).tolist() == [[[255, 255, 255], [40, 50, 60], [70, 80, 90]]]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
@pytest.mark.parametrize("profile", [None, b"some profile"])
@pytest.mark.parametrize(("format", "options"), [("TIFF", {}), ("JPEG", {"progressive": True})])
def test_opaque_modes_are_as_pillow_converts_them(
    mode: str, profile: bytes | None, format: str, options: dict[str, Any]
) -> None:
    if mode == "P" and format == "JPEG":
        pytest.skip("no such files")
    image = Image.fromarray(COLORS).convert(mode)
    data = saved(image, format, icc_profile=profile, **options)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoded(data), expected)
    if mode == "RGB" and format == "TIFF":
        np.testing.assert_array_equal(expected, COLORS)


def test_inverted_cmyk_of_adobe() -> None:
    # Pillow writes Adobe's marker and inverts, and reads it so: the colors have to come back.
    image = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    pixel = decoded(saved(image, "JPEG", quality=100))[8, 8]
    np.testing.assert_allclose(pixel, [0, 255, 255], atol=3)


def test_lab_is_converted() -> None:
    bands = [Image.new("L", (4, 4), value) for value in (255, 128, 128)]
    assert decoded(saved(Image.merge("LAB", bands), "TIFF")).min() >= 254


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(format: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"lossless": True} if format == "WEBP" else {}
    data = saved(Image.fromarray(COLORS), format, exif=exif, **options)
    expected = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("RGB")
    measured = measure_image(data, Limits())
    assert measured.size("viewed") == expected.size == ((9, 6) if orientation < 5 else (6, 9))
    np.testing.assert_array_equal(decoded(data), np.asarray(expected))


def test_case_of_orientation() -> None:
    data = (CASES / "photo-exif-6.jpg").read_bytes()
    np.testing.assert_array_equal(decoded(data), np.rot90(decoded(data, "raw"), -1))


def test_orientation_behind_the_pixels_of_a_png() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    data = saved(Image.fromarray(COLORS), "PNG", exif=exif)
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack_from(">I", data, start)[0]
    iend = len(data) - 12
    moved = data[:start] + data[end:iend] + data[start:end] + data[iend:]
    np.testing.assert_array_equal(decoded(moved), np.rot90(COLORS, -1))


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_orientation_that_is_none_is_passed_over(value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    data = saved(Image.fromarray(COLORS), "PNG", exif=exif)
    np.testing.assert_array_equal(decoded(data), COLORS)


def test_damaged_exif_is_passed_over() -> None:
    data = saved(Image.fromarray(COLORS), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(decoded(data), COLORS)
