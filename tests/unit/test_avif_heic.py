"""AVIF and HEIC: colors that are known, beside FFmpeg's decoders, and files that mean harm."""

import io
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import heic, images
from vlm2vec_service.preprocess.images import TURNS, measure_image
from vlm2vec_service.settings import Limits

CASES = Path(__file__).parent / "data" / "pictures"
"""The HEIC files there are made by pillow-heif 1.8 of `QUARTERS`."""
QUARTERS = np.zeros((48, 64, 3), np.uint8)
"""Red and green over blue and white."""
QUARTERS[:24, :32], QUARTERS[:24, 32:] = (255, 0, 0), (0, 255, 0)
QUARTERS[24:, :32], QUARTERS[24:, 32:] = (0, 0, 255), (255, 255, 255)
PICTURE = Image.fromarray(QUARTERS)
HEIC = (CASES / "quarters.heic").read_bytes()


def decoded(data: bytes, decode: str = "viewed") -> npt.NDArray[np.int_]:
    measured = measure_image(data, Limits())
    picture = measured.decoded(decode)
    assert picture.mode == "RGB"
    assert picture.size == measured.size(decode)
    return np.asarray(picture).astype(int)


def avif(picture: Image.Image = PICTURE, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "AVIF", **{"speed": 10, "quality": 90, **options})
    return buffer.getvalue()


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def assert_shows(pixels: npt.NDArray[np.int_], expected: Image.Image) -> None:
    """The middle of each quarter has its color: at the edges lossy formats mix them."""
    reference = np.asarray(expected).astype(int)
    assert pixels.shape == reference.shape
    height, width, _ = reference.shape
    for y in (height // 4, 3 * height // 4):
        for x in (width // 4, 3 * width // 4):
            assert np.abs(pixels[y, x] - reference[y, x]).max() <= 6, (y, x)


def red_is_transparent(background: tuple[int, int, int]) -> tuple[Image.Image, Image.Image]:
    """The picture with its red quarter transparent, and what that looks like."""
    alpha = Image.new("L", PICTURE.size, 255)
    alpha.paste(0, (0, 0, 32, 24))
    rgba, shown = PICTURE.convert("RGBA"), PICTURE.copy()
    rgba.putalpha(alpha)
    shown.paste(background, (0, 0, 32, 24))
    return rgba, shown


def by_ffmpeg(data: bytes) -> npt.NDArray[np.int_]:
    with av.open(io.BytesIO(data), "r") as container:
        return next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)


@pytest.mark.parametrize(
    ("data", "shown"),
    [
        (avif(), PICTURE),
        (avif(subsampling="4:4:4"), PICTURE),
        (avif(PICTURE.convert("L")), PICTURE.convert("L").convert("RGB")),
        (avif(red_is_transparent((0, 0, 0))[0]), red_is_transparent((255, 255, 255))[1]),
        (avif(save_all=True, append_images=[Image.new("RGB", PICTURE.size)]), PICTURE),
        (HEIC, PICTURE),
        ((CASES / "quarters-10-bit.heic").read_bytes(), PICTURE),
        ((CASES / "quarters-grey.heic").read_bytes(), PICTURE.convert("L").convert("RGB")),
        (
            (CASES / "quarters-red-transparent.heic").read_bytes(),
            red_is_transparent((255, 255, 255))[1],
        ),
        ((CASES / "yellow-and-primary-quarters.heic").read_bytes(), PICTURE),
    ],
)
def test_known_colors(data: bytes, shown: Image.Image) -> None:
    assert_shows(decoded(data), shown)


@pytest.mark.parametrize("data", [avif(subsampling="4:4:4"), avif(), HEIC])
def test_pixels_are_near_those_of_ffmpeg(data: bytes) -> None:
    # It leaves what was added to come to whole blocks.
    difference = np.abs(decoded(data) - by_ffmpeg(data)[: PICTURE.height, : PICTURE.width])
    assert difference.mean() < 3  # colors at half the size are enlarged otherwise
    assert np.median(difference) <= 1


@pytest.mark.parametrize("orientation", range(1, 9))
def test_avif_is_turned_as_its_own_boxes_say(orientation: int) -> None:
    data = avif(exif=turned(orientation))
    turn = TURNS.get(orientation)
    assert_shows(decoded(data), PICTURE if turn is None else PICTURE.transpose(turn))
    assert_shows(decoded(data, "raw"), PICTURE)


def test_avif_is_not_turned_by_what_stands_beside_it() -> None:
    xmp = b'<x xmlns:tiff="t"><rdf:Description tiff:Orientation="6"/></x>'
    assert_shows(decoded(avif(xmp=xmp)), PICTURE)


@pytest.mark.parametrize("orientation", [5, 6])
def test_heic_is_turned_once(orientation: int) -> None:
    """Both its own boxes and its EXIF say so, as phones write it."""
    data = (CASES / f"quarters-turned-{orientation}.heic").read_bytes()
    assert b"irot" in data
    assert b"Exif" in data
    assert_shows(decoded(data), PICTURE.transpose(TURNS[orientation]))


@pytest.mark.parametrize(
    ("name", "problem"),
    [("16384x16384-as-64x64.avif", "AVIF"), ("4096x4096-as-64x64.heic", "HEIF")],
)
def test_a_picture_that_is_larger_than_its_file_says_is_damaged(name: str, problem: str) -> None:
    measured = measure_image((CASES / name).read_bytes(), Limits(), "images[3]")
    assert measured.stored == (64, 64)
    with pytest.raises(InvalidInputError, match=rf"^images\[3\]: .* damaged {problem} image: "):
        measured.decoded("viewed")


@pytest.mark.parametrize("data", [avif(), HEIC])
@pytest.mark.parametrize("part", [0.02, 0.3, 0.6, 0.9])
def test_truncated_files_are_refused(data: bytes, part: float) -> None:
    with pytest.raises(InvalidInputError, match=r"^images\[2\]: "):
        measure_image(data[: int(part * len(data))], Limits(), "images[2]").decoded("viewed")


@pytest.mark.parametrize("data", [avif(), HEIC])
def test_damaged_bytes_raise_nothing_but_invalid_input(data: bytes) -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        damaged = np.frombuffer(data, np.uint8).copy()
        damaged[rng.integers(0, min(len(data), 600), 3)] = rng.integers(0, 256, 3)
        try:
            measure_image(damaged.tobytes(), Limits(max_image_pixels=100_000))
        except InvalidInputError as error:
            assert error.field == "image"  # noqa: PT017 (both outcomes are right)


@pytest.mark.parametrize("data", [avif(), HEIC])
def test_too_many_pixels_are_refused_before_they_are_decoded(data: bytes) -> None:
    with pytest.raises(InvalidInputError, match=r"^image: 64x48 .*max_image_pixels, 3071$"):
        measure_image(data, Limits(max_image_pixels=3071))


def test_without_the_extra_heic_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "HEIC", ())
    monkeypatch.setattr(images, "FORMATS", tuple(set(images.FORMATS) - {"HEIF"}))
    with pytest.raises(InvalidInputError, match=r"^images\[0\]: a HEIC image, .*extra heic"):
        measure_image(HEIC, Limits(), "images[0]")
    assert_shows(decoded(avif()), PICTURE)
    assert heic.register()  # it is installed here
