"""Prompts that come as token ids."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.settings import Limits

CONFIG = EmbeddingConfig()


@pytest.fixture(scope="module", params=["qwen2_vl", "phi3_v"])
def preprocessor(request: pytest.FixtureRequest, checkpoints: Path) -> Preprocessor:
    return load_preprocessor(checkpoints / request.param, Limits(max_tokens=40))


def test_ids_of_a_prompt_are_prepared_as_the_prompt(preprocessor: Preprocessor) -> None:
    prompt = preprocessor.prepare(Request(prompt="A cat and a dog."), CONFIG)
    ids = tuple(prompt.token_ids.tolist())
    prepared = preprocessor.prepare(Request(token_ids=ids), CONFIG)
    np.testing.assert_array_equal(prepared.token_ids, prompt.token_ids)
    np.testing.assert_array_equal(prepared.positions, prompt.positions)
    assert not prepared.media


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (Request(token_ids=(5, 2048)), "token_ids[1]"),
        (Request(token_ids=(2**32 - 1,)), "token_ids[0]"),
        (Request(token_ids=(9,) * 41), "input"),
        (Request(token_ids=(9,), prompt="a"), "token_ids"),
        (Request(token_ids=(9,), text="a"), "token_ids"),
        (Request(token_ids=(9,), images=(Image.new("RGB", (30, 30)),)), "token_ids"),
    ],
)
def test_what_is_refused(preprocessor: Preprocessor, request_: Request, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        preprocessor.prepare(request_, CONFIG)
    assert refused.value.field == field


def test_placeholder_is_refused(checkpoints: Path) -> None:
    with pytest.raises(InvalidInputError, match="stands for media"):
        load_preprocessor(checkpoints / "qwen2_vl").prepare(Request(token_ids=(2006,)), CONFIG)
