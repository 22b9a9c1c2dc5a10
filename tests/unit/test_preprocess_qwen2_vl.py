"""Qwen2-VL's preprocessing beside transformers' own, and what it refuses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import (
    Qwen2VLImageProcessorPil,
    smart_resize,
)

from tests.unit.pictures import film, films, frames, noise
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import Area
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.backbones.qwen_vl.preprocess import fitting
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.settings import Limits

IMAGE_ID, VIDEO_ID = 2006, 2007
DEFAULT = EmbeddingConfig()
MAX_PIXELS = 200_704
"""What the parity checkpoint resizes to at most."""


@pytest.fixture(scope="module")
def folder(checkpoints: Path) -> Path:
    return checkpoints / "qwen2_vl"


@pytest.fixture(scope="module")
def preprocessor(folder: Path) -> Preprocessor:
    return load_preprocessor(folder)


def test_media_in_any_order_of_the_prompt(preprocessor: Preprocessor) -> None:
    pictures = (noise(56, 84), noise(112, 56))
    prompt = "a <|image_pad|> b <|video_pad|> c <|image_pad|> d"
    request = Request(prompt, images=pictures, videos=film(3))
    prepared = preprocessor.prepare(request, DEFAULT)
    assert [media.kind for media in prepared.media] == ["image", "video", "image"]
    assert [media.values.shape for media in prepared.media] == [
        (1, 84, 56, 3),
        (3, 84, 112, 3),
        (1, 56, 112, 3),
    ]
    assert [media.tokens for media in prepared.media] == [6, 2 * 12, 8]
    for media in prepared.media:
        token = VIDEO_ID if media.kind == "video" else IMAGE_ID
        inside = prepared.token_ids[media.start : media.start + media.tokens]
        assert set(inside.tolist()) == {token}
    counts = [int(np.sum(prepared.token_ids == token)) for token in (IMAGE_ID, VIDEO_ID)]
    assert counts == [14, 24]


def test_words_are_rendered_by_the_template(preprocessor: Preprocessor) -> None:
    pictures = (noise(56, 56), noise(84, 84))
    template = PromptTemplate(media_separator="\n", separator=": ", suffix="!")
    rendered = preprocessor.prepare(
        Request(instruction="Find", text="a cat", images=pictures, videos=film(2)),
        EmbeddingConfig(prompt=template),
    )
    raw = preprocessor.prepare(
        Request(
            "<|image_pad|> <|image_pad|> <|video_pad|>\nFind: a cat!",
            images=pictures,
            videos=film(2),
        ),
        DEFAULT,
    )
    np.testing.assert_array_equal(rendered.token_ids, raw.token_ids)
    assert [m.digest for m in rendered.media] == [m.digest for m in raw.media]


@pytest.mark.parametrize(
    ("prompt", "images", "video", "field"),
    [
        ("no placeholder", 1, 0, "images"),
        ("<|image_pad|>", 0, 0, "images"),
        ("<|image_pad|> <|image_pad|>", 1, 0, "images"),
        ("<|image_pad|>", 2, 0, "images"),
        ("<|video_pad|>", 1, 0, "images"),
        ("<|image_pad|>", 1, 2, "video"),
        ("<|video_pad|>", 0, 0, "video"),
        ("<|video_pad|> <|video_pad|>", 0, 2, "video"),
        ("<|image_pad|>", 0, 2, "images"),
        # Phi-3.5-V's are plain words here.
        ("<|image_1|>", 1, 0, "images"),
    ],
)
def test_placeholders_must_be_as_many_as_the_media(
    preprocessor: Preprocessor, prompt: str, images: int, video: int, field: str
) -> None:
    request = Request(prompt, images=frames(images), videos=film(video))
    with pytest.raises(InvalidInputError, match="given, but the prompt has") as caught:
        preprocessor.prepare(request, DEFAULT)
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["instruction", "text"])
@pytest.mark.parametrize("placeholder", ["<|image_pad|>", "<|video_pad|>"])
def test_placeholder_in_words_is_refused(
    preprocessor: Preprocessor, field: str, placeholder: str
) -> None:
    values: dict[str, Any] = {field: f"a {placeholder}"}
    with pytest.raises(InvalidInputError, match="holds the placeholder") as caught:
        preprocessor.prepare(Request(**values, images=frames(1)), DEFAULT)
    assert caught.value.field == field


def random_sizes(count: int) -> Sequence[tuple[int, int]]:
    """Widths and heights of 28 to some thousand, ratios to 200."""
    rng = np.random.default_rng(0)
    sizes = np.exp(rng.uniform(np.log(28), np.log(6000), (count, 2))).astype(int)
    sizes = np.concatenate([sizes, rng.integers(28, 120, (count, 2))])
    return [
        (width, height)
        for width, height in sizes.tolist()
        if max(width, height) <= 200 * min(width, height)
    ]


@pytest.mark.parametrize(
    ("min_pixels", "max_pixels"),
    [(3136, MAX_PIXELS), (3136, 12_845_056), (256 * 784, 1280 * 784), (784, 784), (4 * 784, 5000)],
)
def test_size_is_that_of_transformers(min_pixels: int, max_pixels: int) -> None:
    slivers = [(3, 500), (13, 14), (600, 10), (1, 200), (14, 2000)]
    for width, height in [*random_sizes(2000), *slivers]:
        ours = fitting((width, height), Area(28, min_pixels, max_pixels), rounds_up=False)
        theirs = smart_resize(height, width, 28, min_pixels, max_pixels)
        assert ours == theirs[::-1], (width, height)


def test_short_side_is_rounded_up_to_a_token_only_where_the_authors_do_that() -> None:
    area = Area(28, 3136, 200_704)
    assert fitting((600, 10), area, rounds_up=True) == (588, 28)
    assert fitting((600, 10), area, rounds_up=False) == (448, 28)


@pytest.mark.parametrize(
    "size", [(56, 56), (300, 200), (29, 500), (1200, 900), (28, 28), (640, 427), (2000, 30)]
)
def test_pixels_are_those_of_transformers(
    folder: Path, preprocessor: Preprocessor, size: tuple[int, int]
) -> None:
    image = noise(*size)
    (media,) = preprocessor.prepare(Request(images=(image,)), DEFAULT).media
    theirs = Qwen2VLImageProcessorPil.from_pretrained(folder)
    expected = theirs(image, do_rescale=False, do_normalize=False)
    patches, height, width = theirs.patchify(
        media.values[0].transpose(2, 0, 1), patch_size=14, merge_size=2, temporal_patch_size=2
    )
    assert expected["image_grid_thw"].tolist() == [[1, height, width]]
    np.testing.assert_array_equal(patches, expected["pixel_values"])


@pytest.mark.parametrize("size", [(20, 17), (27, 400), (400, 27), (1, 1), (27, 27)])
def test_picture_smaller_than_a_token_becomes_two_by_two(
    preprocessor: Preprocessor, size: tuple[int, int]
) -> None:
    (media,) = preprocessor.prepare(Request(images=(noise(*size),)), DEFAULT).media
    assert media.values.shape == (1, 56, 56, 3)
    assert media.tokens == 4


@pytest.mark.parametrize(("count", "tokens"), [(1, 12), (2, 12), (3, 24), (4, 24), (5, 36)])
def test_two_frames_share_their_tokens(preprocessor: Preprocessor, count: int, tokens: int) -> None:
    (media,) = preprocessor.prepare(Request(videos=film(count)), DEFAULT).media
    assert media.tokens == tokens
    assert media.values.shape == (count, 84, 112, 3)


def test_frames_of_different_sizes_are_refused(preprocessor: Preprocessor) -> None:
    video = (noise(56, 56), noise(84, 56))
    with pytest.raises(InvalidInputError, match="video: the frames differ in size"):
        preprocessor.prepare(Request(videos=films(video)), DEFAULT)


@pytest.mark.parametrize(
    ("override", "shape"),
    [
        ({}, (1, 336, 560, 3)),
        ({"max_pixels": 50_176}, (1, 168, 280, 3)),
        ({"min_pixels": 400_000, "max_pixels": 1_000_000}, (1, 504, 812, 3)),
        # Phi-3.5-V's key says nothing here.
        ({"num_crops": 1}, (1, 336, 560, 3)),
    ],
)
def test_adapter_overrides_the_sizes(
    preprocessor: Preprocessor, override: dict[str, int], shape: tuple[int, ...]
) -> None:
    request = Request(images=(noise(800, 500),))
    (media,) = preprocessor.prepare(request, EmbeddingConfig(image=override)).media
    assert media.values.shape == shape
    assert media.tokens == shape[1] * shape[2] // 784


def test_too_many_tokens_are_refused(folder: Path) -> None:
    request = Request("<|image_pad|> a", images=(noise(280, 280),))
    # 100 of the image, one of the word.
    assert len(load_preprocessor(folder, Limits(max_tokens=101)).prepare(request, DEFAULT)) == 101
    with pytest.raises(InvalidInputError, match=r"101 tokens .* max_tokens, 100\b"):
        load_preprocessor(folder, Limits(max_tokens=100)).prepare(request, DEFAULT)


@pytest.mark.parametrize(
    ("limits", "field", "problem"),
    [
        (Limits(max_images=1), "images", "2 are more than max_images, 1"),
        (Limits(max_video_frames=2), "video", "3 frames are more than max_video_frames, 2"),
        (Limits(max_image_pixels=5000), "images[1]", "80x70 pixels .* max_image_pixels, 5000"),
        (Limits(max_image_pixels=6000), "video[0]", "112x84 pixels .* max_image_pixels, 6000"),
        (Limits(max_text_bytes=5), "text", "6 bytes are more than max_text_bytes, 5"),
    ],
)
def test_limits_are_refused_by_name(folder: Path, limits: Limits, field: str, problem: str) -> None:
    request = Request(text="6bytes", images=(noise(60, 60), noise(80, 70)), videos=film(3))
    load_preprocessor(folder).prepare(request, DEFAULT)
    with pytest.raises(InvalidInputError, match=problem) as caught:
        load_preprocessor(folder, limits).prepare(request, DEFAULT)
    assert caught.value.field == field


@pytest.mark.parametrize("size", [(5628, 28), (28, 5601), (1, 201)])
def test_flat_or_long_picture_is_refused(preprocessor: Preprocessor, size: tuple[int, int]) -> None:
    with pytest.raises(InvalidInputError, match="200 to 1") as caught:
        preprocessor.prepare(Request(images=(noise(56, 56), noise(*size))), DEFAULT)
    assert caught.value.field == "images[1]"


@pytest.mark.parametrize("size", [(5600, 28), (1, 200)])
def test_picture_of_200_to_1_is_taken(preprocessor: Preprocessor, size: tuple[int, int]) -> None:
    assert len(preprocessor.prepare(Request(images=(noise(*size),)), DEFAULT).media) == 1
