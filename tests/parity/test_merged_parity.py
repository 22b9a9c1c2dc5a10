"""The golden vectors from merged copies of the weights, which is the path of busy adapters."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ARCHITECTURES
from tests.parity.test_parity import ADAPTERS, cosines, load_engine, prepared_cases
from vlm2vec_service.engine import Engine


def merge(engine: Engine) -> None:
    """Merges all adapters of ``engine``, and has it use the copies for any number of rows."""
    engine.merged.least_rows = 1
    for name in engine.adapters:
        engine.merged.merge(name)
    engine.path_tokens.clear()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32(checkpoints: Path, golden: dict[str, Any], architecture: str) -> None:
    engine = load_engine(checkpoints, architecture, "float32")
    engine.merged.budget = 0
    inputs = [
        (prepared, adapter)
        for prepared in prepared_cases(checkpoints, architecture)
        for adapter in ADAPTERS
    ]
    low_rank = engine.embed(inputs)
    assert engine.path_tokens["merged"] == 0
    merge(engine)
    packed = engine.embed(inputs)
    assert engine.path_tokens["low_rank"] == 0
    assert min(cosines(packed, golden, architecture).values()) > 0.9999
    for row, item in list(enumerate(inputs))[:: len(inputs) // 5]:
        assert engine.embed([item])[0] @ packed[row] > 0.99999
    # The DoRA adapters add five times the base weights' norm: on some cases the last bit of the
    # weights moves a vector by 5e-5, and the golden one is as far from either of ours.
    stable = [i for i, (_, adapter) in enumerate(inputs) if adapter != "dora"]
    np.testing.assert_allclose(packed[stable], low_rank[stable], atol=1e-5)
    assert min((packed * low_rank).sum(axis=1)) > 1 - 1e-6
