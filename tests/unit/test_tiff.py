"""TIFF as scanners, cameras and printers write it, and tiles that are larger than the picture."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.unit.pictures import noise
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.settings import Limits

DEFLATE = 8


def saved(image: Image.Image, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "TIFF", **options)
    return buffer.getvalue()


def shown(data: bytes) -> list[Any]:
    """The pixels, as lists."""
    picture = measure_image(data, Limits()).decoded("viewed")
    assert picture.mode == "RGB"
    pixels: list[Any] = np.asarray(picture).tolist()
    return pixels


def tiff(data: bytes, tags: dict[int, int | bytes]) -> bytes:
    """A TIFF of any tags: a number as it is, bytes as 16-bit numbers that lie elsewhere."""
    data += b"\0" * (len(data) % 2)
    entries = b""
    for tag, value in sorted(tags.items()):
        if isinstance(value, int):
            entries += struct.pack("<HHII", tag, 4, 1, value)
        else:
            entries += struct.pack("<HHII", tag, 3, len(value) // 2, 8 + len(data))
            data += value
    head = struct.pack("<2sHI", b"II", 42, 8 + len(data))
    return head + data + struct.pack("<H", len(tags)) + entries + bytes(4)


def tiled(side: int, tile: int, data: bytes) -> bytes:
    """A grey TIFF of one deflated tile."""
    tags: dict[int, int | bytes] = {
        256: side, 257: side, 258: 8, 259: DEFLATE, 262: 1, 277: 1, 322: tile, 323: tile, 324: 8,
        325: len(data),
    }  # fmt: skip
    return tiff(data, tags)


@pytest.mark.parametrize(
    "compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits", "zstd", "lzma"]
)
@pytest.mark.parametrize("mode", ["RGB", "L", "1"])
def test_lossless_compressions(compression: str, mode: str) -> None:
    image = noise(70, 50).convert(mode)
    data = saved(image, compression=compression)
    assert shown(data) == np.asarray(image.convert("RGB")).tolist()


@pytest.mark.parametrize("compression", ["group3", "group4"])
def test_faxes(compression: str) -> None:
    image = noise(70, 50).convert("1")
    data = saved(image, compression=compression)
    assert shown(data) == np.asarray(image.convert("RGB")).tolist()


def test_jpeg_within_tiff() -> None:
    image = Image.new("RGB", (64, 48), (200, 30, 60))
    pixels = np.array(shown(saved(image, compression="jpeg", quality=95)))
    assert np.abs(pixels - (200, 30, 60)).max() <= 4


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_the_first_page_of_many(compression: str) -> None:
    pages = [noise(20, 10, 1), noise(300, 200, 2).convert("L"), noise(5, 5, 3)]
    data = saved(pages[0], save_all=True, append_images=pages[1:], compression=compression)
    assert shown(data) == np.asarray(pages[0]).tolist()


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw"])
def test_inks(compression: str) -> None:
    inks = {
        (255, 0, 0, 0): [0, 255, 255], (0, 255, 0, 0): [255, 0, 255], (0, 0, 255, 0): [255, 255, 0],
        (0, 0, 0, 255): [0, 0, 0], (0, 0, 0, 0): [255, 255, 255], (0, 255, 255, 0): [255, 0, 0],
    }  # fmt: skip
    image = Image.fromarray(np.array([list(inks)], np.uint8), "CMYK")
    assert shown(saved(image, compression=compression)) == [list(inks.values())]


@pytest.mark.parametrize("order", ["<", ">"])
def test_16_bits_a_color(order: str) -> None:
    colors = [[0, 257 * 100, 65535], [257, 257 * 254, 257 * 7], [65535, 65535, 0]]
    data = np.array(colors, "<u2").tobytes()
    file = tiff(
        data,
        {
            256: 3, 257: 1, 258: struct.pack("<3H", 16, 16, 16), 259: 1, 262: 2, 273: 8, 277: 3,
            278: 1, 279: len(data),
        },
    )  # fmt: skip
    if order == ">":  # as Pillow writes none, the same numbers the other way round
        file = _big_endian(np.array(colors, ">u2").tobytes())
    assert shown(file) == [[[0, 100, 255], [1, 254, 7], [255, 255, 0]]]


def _big_endian(data: bytes) -> bytes:
    tags = {
        256: (4, 3), 257: (4, 1), 258: (3, 3), 259: (3, 1), 262: (3, 2), 273: (4, 14),
        277: (3, 3), 278: (4, 1), 279: (4, len(data)),
    }  # fmt: skip
    body = struct.pack(">3H", 16, 16, 16) + data
    entries = b""
    for tag, (kind, value) in tags.items():
        if tag == 258:
            entries += struct.pack(">HHII", tag, kind, 3, 8)
        elif kind == 3:
            entries += struct.pack(">HHIHH", tag, kind, 1, value, 0)
        else:
            entries += struct.pack(">HHII", tag, kind, 1, value)
    head = struct.pack(">2sHI", b"MM", 42, 8 + len(body))
    return head + body + struct.pack(">H", len(tags)) + entries + bytes(4)


def test_tiles() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    data = tiled(10, 16, zlib.compress(pixels.tobytes()))
    assert shown(data) == np.repeat(pixels[:10, :10, None], 3, axis=2).tolist()


@pytest.mark.parametrize("tile", [7_072, 65_536])
def test_tiles_larger_than_any_picture_are_refused_undecoded(tile: int) -> None:
    data = tiled(64, tile, zlib.compress(bytes(1000)))
    with pytest.raises(InvalidInputError, match=rf"^images\[1\]: tiles of {tile}x{tile} pixels"):
        measure_image(data, Limits(), "images[1]")


@pytest.mark.parametrize("kind", [2, 5, 11])
def test_tiles_without_a_size_are_damaged(kind: int) -> None:
    """Their width is a text, a fraction or a float."""
    data = tiled(64, 64, zlib.compress(bytes(4096)))
    width = struct.pack("<HHI", 322, 4, 1)
    assert width in data
    with pytest.raises(InvalidInputError, match=r"^image: damaged TIFF image: its tiles have no"):
        measure_image(data.replace(width, struct.pack("<HHI", 322, kind, 1)), Limits())
