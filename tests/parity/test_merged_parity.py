"""The golden vectors from merged copies of the weights, which is the path of busy adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ARCHITECTURES
from tests.parity.test_parity import ADAPTERS, cosines, load_engine, prepared_cases
from vlm2vec_service.engine import Engine


def load_merged(checkpoints: Path, architecture: str, dtype: str) -> Engine:
    """An engine with merged copies of all adapters, which it uses for any number of rows."""
    engine = load_engine(checkpoints, architecture, dtype)
    engine.merged.least_rows = 1
    for name in engine.adapters:
        engine.merged.merge(name)
    return engine


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_alone_and_packed(
    checkpoints: Path, golden: dict[str, Any], architecture: str
) -> None:
    engine = load_merged(checkpoints, architecture, "float32")
    inputs = [
        (prepared, adapter)
        for prepared in prepared_cases(checkpoints, architecture)
        for adapter in ADAPTERS
    ]
    alone = np.concatenate([engine.embed([item]) for item in inputs])
    packed = engine.embed(inputs)
    assert engine.path_tokens["low_rank"] == 0
    assert min(cosines(alone, golden, architecture).values()) > 0.9999
    assert min(cosines(packed, golden, architecture).values()) > 0.9999
    assert min((alone * packed).sum(axis=1)) > 0.99999


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_beside_the_low_rank_path(checkpoints: Path, architecture: str) -> None:
    inputs = [
        (prepared, adapter)
        for prepared in prepared_cases(checkpoints, architecture)
        for adapter in ADAPTERS
    ]
    merged = load_merged(checkpoints, architecture, "float32").embed(inputs)
    low_rank_engine = load_engine(checkpoints, architecture, "float32")
    low_rank_engine.merged.budget = 0
    low_rank = low_rank_engine.embed(inputs)
    assert low_rank_engine.path_tokens["merged"] == 0
    # The DoRA adapters add five times the base weights' norm: on some cases the last bit of the
    # weights moves a vector by 5e-5, and the golden one is as far from either of ours.
    stable = [i for i, (_, adapter) in enumerate(inputs) if adapter != "dora"]
    np.testing.assert_allclose(merged[stable], low_rank[stable], atol=1e-5)
    assert min((merged * low_rank).sum(axis=1)) > 1 - 1e-6
