"""The kernels of the norms."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.unit.kernels.close import DTYPES, assert_close, normal

pytest.importorskip("triton", reason="Triton has no wheel for this machine")
from vlm2vec_service.engine.kernels import norms


def summed(residual: Tensor, delta: Tensor | None) -> Tensor:
    return residual if delta is None else residual + delta


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("adds", [True, False], ids=["adds", "only norms"])
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (5, 100), (3, 1280), (2, 1536), (2, 3072)])
def test_rms_norm(rows: int, size: int, adds: bool, dtype: torch.dtype) -> None:
    residual, weight = normal(rows, size, dtype=dtype), normal(size, dtype=dtype, seed=2)
    delta = normal(rows, size, dtype=dtype, seed=1) if adds else None
    total = summed(residual.double(), delta)
    normed = norms.add_rms_norm(residual, delta, weight, 1e-6)
    assert_close(residual, total)
    exact = F.rms_norm(residual.double(), (size,), weight.double(), 1e-6)
    assert_close(normed, exact)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("adds", [True, False], ids=["adds", "only norms"])
@pytest.mark.parametrize(("rows", "size"), [(1, 64), (5, 100), (3, 1280), (2, 1024)])
def test_layer_norm(rows: int, size: int, adds: bool, dtype: torch.dtype) -> None:
    residual = normal(rows, size, dtype=dtype) + 3
    weight, bias = normal(2, size, dtype=dtype, seed=2).unbind()
    delta = normal(rows, size, dtype=dtype, seed=1) if adds else None
    total = summed(residual.double(), delta)
    normed = norms.add_layer_norm(residual, delta, weight, bias, 1e-5)
    assert_close(residual, total)
    exact = F.layer_norm(residual.double(), (size,), weight.double(), bias.double(), 1e-5)
    assert_close(normed, exact, scale=4)


def test_the_sum_is_rounded_before_its_norm() -> None:
    residual = torch.full((1, 4), 2048.0, dtype=torch.float16, device=normal(1).device)
    delta = torch.tensor([[1.0, 0, 0, 0]], dtype=torch.float16, device=residual.device)
    normed = norms.add_rms_norm(residual, delta, torch.ones_like(delta[0]), 0.0)
    assert residual.tolist() == [[2048.0] * 4]
    assert normed.tolist() == [[1.0] * 4]


def test_rows_may_lie_apart_and_be_none() -> None:
    wide, weight = normal(3, 200), normal(100, seed=2)
    before = wide.clone()
    normed = norms.add_rms_norm(wide[:, :100], wide[:, 100:], weight, 1e-6)
    assert_close(
        normed, F.rms_norm(before[:, :100] + before[:, 100:], (100,), weight, 1e-6).double()
    )
    assert torch.equal(wide[:, 100:], before[:, 100:])
    assert norms.add_rms_norm(wide[:0, :100], None, weight, 1e-6).shape == (0, 100)
