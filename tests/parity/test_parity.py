"""Our vectors beside those of the model authors' own code; see data/ for how those were made."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.conftest import ARCHITECTURES, CASES, adapter_folder, case_request
from tests.parity.wide_products import WideProducts
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.settings import EngineSettings

ADAPTERS = (None, "lora", "dora")
CROPS = 5
"""The crops that upstream always makes of an image on Phi-3.5-V; those beyond its grid are zero."""


def prepared_cases(checkpoints: Path, architecture: str) -> list[Prepared]:
    preprocessor = load_preprocessor(checkpoints / architecture)
    cases = CASES[architecture]
    return [preprocessor.prepare(case_request(case), EmbeddingConfig()) for case in cases]


def load_engine(checkpoints: Path, architecture: str, dtype: str) -> Engine:
    settings = EngineSettings(dtype=dtype, token_budget=100_000, vision_cache_bytes=0)
    engine = Engine.load(checkpoints / architecture, settings)
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder(architecture, name))
    return engine


def cosines(
    vectors: npt.NDArray[np.float32],
    golden: dict[str, Any],
    architecture: str,
    adapters: tuple[str | None, ...] = ADAPTERS,
) -> dict[str, float]:
    """Compares ``vectors``, one for each case and adapter in turn, with the golden ones.

    Returns the cosines by the key of the golden vector.
    """
    keys = [
        f"{architecture}/{adapter or 'base'}/{case['id']}"
        for case in CASES[architecture]
        for adapter in adapters
    ]
    return {key: float(vector @ golden[key]) for key, vector in zip(keys, vectors, strict=True)}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_ids_and_pixels(checkpoints: Path, golden: dict[str, Any], architecture: str) -> None:
    engine = load_engine(checkpoints, architecture, "float32")
    seen = 0
    for case, prepared in zip(
        CASES[architecture], prepared_cases(checkpoints, architecture), strict=True
    ):
        ids = golden[f"{architecture}/input_ids/{case['id']}"]
        np.testing.assert_array_equal(prepared.token_ids, ids)
        if not prepared.media:
            continue
        pieces = []
        for media in prepared.media:
            if architecture == "qwen2_vl":
                pieces.append(engine.backbone.cut(np.stack([media.values])).flatten())  # type: ignore[operator]
            else:
                crops = engine.backbone.crops(media)  # type: ignore[operator]
                pieces.append(torch.nn.functional.pad(crops, (0,) * 7 + (CROPS - len(crops),)))
        pixels = torch.cat([piece.flatten() for piece in pieces]).double()
        statistics = [len(pixels), *(f.item() for f in (
            pixels.mean(), pixels.std(), pixels.min(), pixels.max()
        ))]  # fmt: skip
        expected = golden[f"{architecture}/pixels/{case['id']}"]
        np.testing.assert_allclose(statistics, expected, rtol=1e-6, atol=1e-6)
        seen += 1
    assert seen == sum("images" in case or "video" in case for case in CASES[architecture])


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_alone_and_packed(
    checkpoints: Path, golden: dict[str, Any], architecture: str
) -> None:
    engine = load_engine(checkpoints, architecture, "float32")
    inputs = [
        (prepared, adapter)
        for prepared in prepared_cases(checkpoints, architecture)
        for adapter in ADAPTERS
    ]
    alone = np.concatenate([engine.embed([item]) for item in inputs])
    packed = engine.embed(inputs)

    assert min(cosines(alone, golden, architecture).values()) > 0.9999
    assert min(cosines(packed, golden, architecture).values()) > 0.9999
    assert min((alone * packed).sum(axis=1)) > 0.99999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_bfloat16(checkpoints: Path, golden: dict[str, Any], architecture: str) -> None:
    prepared = prepared_cases(checkpoints, architecture)
    engine = load_engine(checkpoints, architecture, "bfloat16")
    with WideProducts():
        plain = engine.embed([(item, name) for item in prepared for name in (None, "lora")])
    assert min(cosines(plain, golden, architecture, (None, "lora")).values()) > 0.995

    # The DoRA adapters add five times the base weights' norm, which makes some cases so
    # sensitive that rounding the base weights alone, in exact arithmetic, moves them further.
    # Where it does not, bfloat16 arithmetic must not either.
    exact = load_engine(checkpoints, architecture, "float32")
    for parameter in exact.backbone.parameters():
        parameter.data = parameter.data.bfloat16().float()
    exact.load_adapter("dora", adapter_folder(architecture, "dora"))
    dora = [(item, "dora") for item in prepared]
    rounded = cosines(exact.embed(dora), golden, architecture, ("dora",))
    with WideProducts():
        ours = cosines(engine.embed(dora), golden, architecture, ("dora",))
    stable = [key for key, cosine in rounded.items() if cosine > 0.9996]
    assert stable
    assert min(ours[key] for key in stable) > 0.995
