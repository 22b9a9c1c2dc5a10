"""Where Qwen2-VL's tokens stand, beside transformers' own positions."""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from transformers import Qwen2VLConfig, Qwen2VLModel

from tests.unit.pictures import film, films, frames, noise
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.preprocess import Prepared, Preprocessor, Request

IMAGE_ID, VIDEO_ID = 2006, 2007
DEFAULT = EmbeddingConfig()


@pytest.fixture(scope="module")
def folder(checkpoints: Path) -> Path:
    return checkpoints / "qwen2_vl"


@pytest.fixture(scope="module")
def preprocessor(folder: Path) -> Preprocessor:
    return load_preprocessor(folder)


@pytest.fixture(scope="module")
def model(folder: Path) -> Qwen2VLModel:
    """The model of transformers, without weights: only its positions are asked for."""
    with torch.device("meta"):
        return Qwen2VLModel(Qwen2VLConfig.from_pretrained(folder))


def their_positions(model: Qwen2VLModel, prepared: Prepared) -> npt.NDArray[np.int64]:
    """transformers' M-RoPE positions ``(3, n)`` of the same tokens and grids."""
    # Grids count patches; pixels are of the size that becomes patches.
    grids: dict[str, list[list[int]]] = {"image": [], "video": []}
    for media in prepared.media:
        count, height, width, _ = media.values.shape
        grids[media.kind].append([math.ceil(count / 2), height // 14, width // 14])
    ids = prepared.token_ids.tolist()
    kinds = [{IMAGE_ID: 1, VIDEO_ID: 2}.get(token, 0) for token in ids]
    positions, _ = model.get_rope_index(
        torch.LongTensor([ids]),
        torch.IntTensor([kinds]),
        image_grid_thw=torch.LongTensor(grids["image"]),
        video_grid_thw=torch.LongTensor(grids["video"]),
    )
    result: npt.NDArray[np.int64] = positions[:, 0].numpy()
    return result


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
VIDEO = "<|vision_start|><|video_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("prompt", "images", "video"),
    [
        ("A cat and a dog.", (), ()),
        (f"{IMAGE} Represent it.", (noise(300, 200),), ()),
        (f"Before {IMAGE} and after", (noise(100, 400),), ()),
        (f"{IMAGE}{IMAGE} which?", (noise(84, 84), noise(300, 100)), ()),
        (f"{VIDEO} What happens?", (), frames(6)),
        (f"{VIDEO}", (), frames(5)),
        (f"{VIDEO} odd one out: {IMAGE}", (noise(150, 200),), frames(4)),
        (f"{IMAGE} {VIDEO} {IMAGE} end", (noise(60, 60), noise(200, 30)), frames(1)),
    ],
)
def test_positions_behind_vision_start_are_those_of_transformers(
    preprocessor: Preprocessor,
    model: Qwen2VLModel,
    prompt: str,
    images: tuple[Image.Image, ...],
    video: tuple[Image.Image, ...],
) -> None:
    prepared = preprocessor.prepare(Request(prompt, images=images, videos=films(video)), DEFAULT)
    assert prepared.positions.dtype == np.int32
    np.testing.assert_array_equal(prepared.positions, their_positions(model, prepared))


def test_counting_goes_on_behind_the_largest_position_even_in_time(
    preprocessor: Preprocessor,
) -> None:
    # As in the paper and in transformers 4; transformers 5 skips only by height and width, which
    # gives tokens behind a long video positions that its last frames have.
    prompt = "<|vision_start|><|video_pad|><|vision_end|>"
    prepared = preprocessor.prepare(Request(prompt, videos=film(10, 56, 56)), DEFAULT)
    assert prepared.positions[:, :5].tolist() == [[0, 1, 1, 1, 1], [0, 1, 1, 2, 2], [0, 1, 2, 1, 2]]
    assert prepared.positions[:, -2].tolist() == [5, 2, 2]
    assert prepared.positions[:, -1].tolist() == [6, 6, 6]


@pytest.mark.parametrize(
    ("prompt", "images", "video"),
    [
        ("<|image_pad|> Represent it.", (noise(300, 200),), ()),
        ("<|video_pad|> Represent it.", (), frames(4)),
        ("<|image_pad|> <|image_pad|> <|video_pad|>", (noise(90, 90), noise(60, 60)), frames(2)),
        # A blank between them already parts the two.
        ("<|vision_start|> <|image_pad|>", (noise(90, 90),), ()),
    ],
)
def test_positions_without_vision_start_are_sequential(
    preprocessor: Preprocessor,
    prompt: str,
    images: tuple[Image.Image, ...],
    video: tuple[Image.Image, ...],
) -> None:
    prepared = preprocessor.prepare(Request(prompt, images=images, videos=films(video)), DEFAULT)
    np.testing.assert_array_equal(prepared.positions, [range(len(prepared))] * 3)


def test_only_media_behind_vision_start_get_grid_positions(preprocessor: Preprocessor) -> None:
    request = Request(f"<|image_pad|> {IMAGE}", images=(noise(84, 56), noise(84, 56)))
    prepared = preprocessor.prepare(request, DEFAULT)
    plain, spatial = prepared.media
    np.testing.assert_array_equal(
        prepared.positions[:, plain.start : plain.start + plain.tokens], [range(6)] * 3
    )
    start = spatial.start
    assert (prepared.positions[:, start : start + 6] - start).tolist() == [
        [0, 0, 0, 0, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [0, 1, 2, 0, 1, 2],
    ]
