"""The kernels of the activations."""

import pytest
import torch
from torch.nn import functional as F

from tests.unit.kernels.close import DTYPES, assert_close, normal

pytest.importorskip("triton", reason="Triton has no wheel for this machine")
from vlm2vec_service.engine.kernels import activations

SHAPES = [(1, 8), (3, 1000), (2, 1024), (2, 2049), (0, 16)]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size"), SHAPES)
def test_swiglu(rows: int, size: int, dtype: torch.dtype) -> None:
    gate_up = normal(rows, 2 * size, dtype=dtype) * 3
    gate, up = gate_up.double().chunk(2, dim=1)
    product = activations.swiglu(gate_up)
    assert product.shape == (rows, size)
    assert_close(product, F.silu(gate) * up)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "size"), SHAPES)
def test_quick_gelu(rows: int, size: int, dtype: torch.dtype) -> None:
    x = normal(rows, size, dtype=dtype) * 3
    exact = x.double() * torch.sigmoid(1.702 * x.double())
    activations.quick_gelu(x)
    assert_close(x, exact)
