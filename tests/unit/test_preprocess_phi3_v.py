"""Phi-3.5-vision's preprocessing: crops, their tokens and what is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer

from tests.unit.pictures import blank, noise
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.backbones.phi3_v.preprocess import hd_grid, hd_transform, token_count
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.settings import Limits

DEFAULT = EmbeddingConfig()


@pytest.fixture(scope="module")
def folder(checkpoints: Path) -> Path:
    return checkpoints / "phi3_v"


@pytest.fixture(scope="module")
def preprocessor(folder: Path) -> Preprocessor:
    return load_preprocessor(folder)


def test_every_piece_of_text_has_its_own_bos(folder: Path, preprocessor: Preprocessor) -> None:
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    request = Request("a <|image_1|> b <|image_2|>\nc", images=(blank(336, 336), blank(672, 336)))
    prepared = preprocessor.prepare(request, DEFAULT)
    first, second = prepared.media
    expected = [
        *tokenizer.encode("a ").ids,
        *[-1] * first.tokens,
        *tokenizer.encode(" b ").ids,
        *[-2] * second.tokens,
        *tokenizer.encode("\nc").ids,
    ]
    assert prepared.token_ids.tolist() == expected
    assert prepared.token_ids.tolist().count(1) == 3


def test_positions_are_sequential(preprocessor: Preprocessor) -> None:
    prepared = preprocessor.prepare(Request("<|image_1|> a", images=(blank(50, 50),)), DEFAULT)
    np.testing.assert_array_equal(prepared.positions, [range(len(prepared))] * 3)


@pytest.mark.parametrize(
    ("size", "grid"),
    [
        ((336, 336), (2, 2)),
        ((1, 1), (2, 2)),
        ((672, 336), (1, 2)),
        ((336, 672), (2, 1)),
        ((1000, 250), (1, 4)),
        ((300, 1000), (3, 1)),
        ((5000, 1), (1, 4)),
        ((1, 5000), (4, 1)),
    ],
)
def test_tokens_are_as_many_as_the_crops_make(
    preprocessor: Preprocessor, size: tuple[int, int], grid: tuple[int, int]
) -> None:
    request = Request("<|image_1|>\nWhat is it?", images=(noise(*size),))
    prepared = preprocessor.prepare(request, DEFAULT)
    (media,) = prepared.media
    rows, columns = grid
    assert media.kind == "image"
    assert media.values.shape == (1, 336 * rows, 336 * columns, 3)
    # Lines of 12 tokens a crop and one that ends the line; the global view is one crop, and one
    # token parts the two.
    expected = 12 * rows * (12 * columns + 1) + 1 + 12 * (12 + 1)
    assert media.tokens == token_count(grid) == expected
    assert np.flatnonzero(prepared.token_ids == -1).tolist() == list(
        range(media.start, media.start + expected)
    )


def test_grid_never_has_more_crops_than_it_may() -> None:
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(0, np.log(6000), (300, 2))).astype(int).tolist()
    for width, height in [*sizes, (1, 5000), (5000, 1), (1, 1), (6000, 6000)]:
        for num_crops in (1, 2, 3, 4, 6, 9, 16):
            rows, columns = hd_grid((width, height), num_crops)
            assert min(rows, columns) >= 1
            assert rows * columns <= num_crops, (width, height, num_crops)


def test_grid_is_that_of_the_rule_upstream() -> None:
    rng = np.random.default_rng(2)
    for width, height in np.exp(rng.uniform(0, np.log(6000), (500, 2))).astype(int).tolist():
        ratio = max(width, height) / min(width, height)
        for num_crops in (1, 4, 16):
            # HD_transform and padding_336 of microsoft/Phi-3.5-vision-instruct.
            scale = 1
            while scale * np.ceil(scale / ratio) <= num_crops:
                scale += 1
            scale -= 1
            shorter = int(scale * 336 / ratio)
            if not shorter:
                continue  # upstream fails to resize to no pixel at all
            grid = (int(np.ceil(shorter / 336)), scale)
            expected = grid if width >= height else grid[::-1]
            assert hd_grid((width, height), num_crops) == expected, (width, height)


def test_grid_of_a_portrait_is_that_of_the_landscape_turned() -> None:
    rng = np.random.default_rng(1)
    for width, height in rng.integers(1, 3000, (200, 2)).tolist():
        if width != height:
            rows, columns = hd_grid((width, height), 16)
            assert hd_grid((height, width), 16) == (columns, rows)
            assert (rows >= columns) == (height > width) or rows == columns


def test_pixels_of_a_portrait_are_those_of_the_landscape_turned() -> None:
    landscape = noise(500, 180)
    portrait = landscape.transpose(Image.Transpose.TRANSPOSE)
    lying = hd_transform(landscape, hd_grid(landscape.size, 4))
    standing = hd_transform(portrait, hd_grid(portrait.size, 4))
    np.testing.assert_array_equal(standing, lying.transpose(1, 0, 2))


@pytest.mark.parametrize(
    ("size", "grid", "height", "top"),
    [((1000, 100), (1, 4), 134, 101), ((500, 100), (1, 4), 268, 34), ((800, 400), (1, 2), 336, 0)],
)
def test_picture_stands_between_white_margins(
    size: tuple[int, int], grid: tuple[int, int], height: int, top: int
) -> None:
    pixels = hd_transform(blank(*size), grid)
    dark = np.flatnonzero((pixels == 0).all(axis=(1, 2)))
    assert dark.tolist() == list(range(top, top + height))
    assert (np.delete(pixels, dark, axis=0) == 255).all()


def test_picture_of_the_size_of_its_crops_is_left_as_it_is() -> None:
    image = noise(672, 672)
    np.testing.assert_array_equal(hd_transform(image, (2, 2)), np.asarray(image))


@pytest.mark.parametrize(
    ("num_crops", "shape"),
    [
        (1, (1, 336, 336, 3)),
        (4, (1, 672, 672, 3)),
        (6, (1, 672, 1008, 3)),
        (16, (1, 1008, 1680, 3)),
    ],
)
def test_adapter_overrides_the_crops(
    preprocessor: Preprocessor, num_crops: int, shape: tuple[int, ...]
) -> None:
    embedding = EmbeddingConfig(image={"num_crops": num_crops})
    (media,) = preprocessor.prepare(Request(images=(blank(800, 450),)), embedding).media
    assert media.values.shape == shape


def test_words_are_rendered_by_the_template(preprocessor: Preprocessor) -> None:
    pictures = (noise(60, 60), noise(80, 40))
    template = PromptTemplate(media_separator="\n", separator=": ", suffix="\n")
    rendered = preprocessor.prepare(
        Request(instruction="Find", text="a cat", images=pictures), EmbeddingConfig(prompt=template)
    )
    raw = preprocessor.prepare(
        Request("<|image_1|> <|image_2|>\nFind: a cat\n", images=pictures), DEFAULT
    )
    np.testing.assert_array_equal(rendered.token_ids, raw.token_ids)
    assert [media.digest for media in rendered.media] == [media.digest for media in raw.media]


@pytest.mark.parametrize(
    ("prompt", "images"),
    [
        ("no placeholder", 1),
        ("<|image_1|>", 0),
        ("<|image_1|>", 2),
        ("<|image_1|> <|image_2|>", 1),
        ("<|image_2|> <|image_1|>", 2),
        ("<|image_1|> <|image_1|>", 1),
        ("<|image_1|> <|image_1|>", 2),
        ("<|image_1|> <|image_3|>", 2),
        ("<|image_0|>", 1),
        ("<|image_2|>", 1),
        ("<|image_01|>", 1),
        # An Arabic 1: \d and int() know it, the models do not.
        ("<|image_\u0661|>", 1),
        # More digits than int() takes.
        (f"<|image_{'1' * 5000}|>", 1),
    ],
    ids=lambda value: str(value)[:40],
)
def test_placeholders_must_be_numbered_in_order(
    preprocessor: Preprocessor, prompt: str, images: int
) -> None:
    request = Request(prompt, images=(blank(30, 30),) * images)
    with pytest.raises(InvalidInputError, match=f"{images} given, but the prompt has") as caught:
        preprocessor.prepare(request, DEFAULT)
    assert caught.value.field == "images"


@pytest.mark.parametrize("field", ["instruction", "text"])
@pytest.mark.parametrize("placeholder", ["<|image_1|>", "<|image_27|>"])
def test_placeholder_in_words_is_refused(
    preprocessor: Preprocessor, field: str, placeholder: str
) -> None:
    values: dict[str, Any] = {field: f"a {placeholder}"}
    with pytest.raises(InvalidInputError, match="holds the placeholder") as caught:
        preprocessor.prepare(Request(**values, images=(blank(30, 30),)), DEFAULT)
    assert caught.value.field == field


def test_video_is_refused(preprocessor: Preprocessor) -> None:
    request = Request("a", videos=(Frames((blank(30, 30),)),))
    with pytest.raises(InvalidInputError, match="takes no video") as caught:
        preprocessor.prepare(request, DEFAULT)
    assert caught.value.field == "video"


@pytest.mark.parametrize(
    ("limits", "field", "problem"),
    [
        (Limits(max_tokens=1_500), "input", r"\d+ tokens are more than max_tokens, 1500\b"),
        (Limits(max_images=1), "images", "2 are more than max_images, 1"),
        (Limits(max_image_pixels=5_000), "images[1]", "80x70 pixels .* max_image_pixels, 5000"),
        (Limits(max_text_bytes=5), "text", "6 bytes are more than max_text_bytes, 5"),
    ],
)
def test_limits_are_refused_by_name(folder: Path, limits: Limits, field: str, problem: str) -> None:
    request = Request(text="6bytes", images=(blank(60, 60), blank(80, 70)))
    assert len(load_preprocessor(folder).prepare(request, DEFAULT)) > 1_500
    with pytest.raises(InvalidInputError, match=problem) as caught:
        load_preprocessor(folder, limits).prepare(request, DEFAULT)
    assert caught.value.field == field
