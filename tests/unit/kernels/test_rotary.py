"""The kernel of the rotary position embedding."""

import pytest
import torch

from tests.unit.kernels.close import DTYPES, assert_close, normal

pytest.importorskip("triton", reason="Triton has no wheel for this machine")
from vlm2vec_service.engine.kernels import rotary


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("heads", "dim", "more"), [(14, 128, 256), (16, 80, 640), (33, 96, 0), (3, 8, 5)]
)
def test_it_turns_pairs_of_columns_and_leaves_the_others(
    heads: int, dim: int, more: int, dtype: torch.dtype
) -> None:
    x = normal(3, heads * dim + more, dtype=dtype)
    angles = normal(3, dim // 2, seed=1)
    before = x.double()
    rotary.rotate(x, angles.cos(), angles.sin(), heads)
    halves = before[:, : heads * dim].view(3, heads, 2, dim // 2).unbind(2)
    turned = torch.complex(*halves) * torch.exp(1j * angles.double())[:, None]
    exact = torch.stack((turned.real, turned.imag), 2).flatten(1)
    assert_close(x[:, : heads * dim], exact, scale=4)
    assert torch.equal(x[:, heads * dim :].double(), before[:, heads * dim :])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "dim", "more"), [(24, 128, 256), (6, 48, 96), (3, 8, 5)])
def test_it_norms_heads_before_they_turn(
    heads: int, dim: int, more: int, dtype: torch.dtype
) -> None:
    x, weight = normal(3, heads * dim + more, dtype=dtype), normal(heads, dim, dtype=dtype, seed=2)
    angles = normal(3, dim // 2, seed=1)
    before = x.double()
    rotary.rotate(x, angles.cos(), angles.sin(), heads, weight, 1e-6)
    wide = before[:, : heads * dim].view(3, heads, dim)
    normed = wide * (wide.square().mean(2, keepdim=True) + 1e-6).rsqrt() * weight.double()
    halves = normed.view(3, heads, 2, dim // 2).unbind(2)
    turned = torch.complex(*halves) * torch.exp(1j * angles.double())[:, None]
    exact = torch.stack((turned.real, turned.imag), 2).flatten(1)
    assert_close(x[:, : heads * dim], exact, scale=4)
    assert torch.equal(x[:, heads * dim :].double(), before[:, heads * dim :])


def test_of_no_rows_it_turns_none() -> None:
    rotary.rotate(normal(0, 8), normal(0, 4), normal(0, 4), 1)
