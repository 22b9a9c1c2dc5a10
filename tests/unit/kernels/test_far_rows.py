"""Rows that lie further apart than 32 bits count, as those of a large batch do."""

import os
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.unit.kernels.close import DEVICE, normal

pytest.importorskip("triton", reason="Triton has no wheel for this machine")
from vlm2vec_service.engine.kernels import activations, low_rank, norms, rotary
from vlm2vec_service.engine.low_rank import LowRank

pytestmark = pytest.mark.skipif(DEVICE == "cuda", reason="would take 4 GB")
STRIDE = 2**30
ROWS = 3
"""The first element of the last row is the one behind the last that a signed number of 32 bits
can say."""


@pytest.fixture(scope="module")
def memory(tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    """4 GB of addresses, of which only the pages that are written to take room."""
    count = STRIDE * (ROWS - 1) + 64
    file = tmp_path_factory.mktemp("far") / "memory"
    file.touch()
    os.truncate(file, 2 * count)
    return torch.from_file(str(file), shared=True, size=count, dtype=torch.float16)


def shrunk(x: Tensor) -> Tensor:
    return low_rank.shrink(x, ADDED.tensors, TABLE, TILES, 16, 1, 16)


def expanded(y: Tensor) -> Tensor:
    low_rank.expand(y, torch.ones(1, ROWS, 16), ADDED.tensors, TABLE, TILES, 16)
    return y


def swiglu_expanded(y: Tensor) -> Tensor:
    return low_rank.swiglu_expand(y, torch.ones(1, ROWS, 16), ADDED.tensors, TABLE, TILES, 16)


def rotated(x: Tensor) -> Tensor:
    angles = normal(ROWS, 8)
    rotary.rotate(x, angles.cos(), angles.sin(), 2)
    return x


def activated(x: Tensor) -> Tensor:
    activations.quick_gelu(x)
    return x


WEIGHT = normal(32, dtype=torch.float16)
ADDED = LowRank(normal(16, 32, dtype=torch.float16), normal(32, 16, dtype=torch.float16))
TABLE = torch.tensor([ADDED.pointers])
TILES = torch.tensor([[0, 0, ROWS]], dtype=torch.int32)
KERNELS: dict[str, Callable[[Tensor], Tensor]] = {
    "rms norm": lambda x: norms.add_rms_norm(x, x, WEIGHT, 1e-6),
    "layer norm": lambda x: norms.add_layer_norm(x, x, WEIGHT, WEIGHT, 1e-6),
    "rotary": rotated,
    "swiglu": activations.swiglu,
    "quick gelu": activated,
    "shrink": shrunk,
    "expand": expanded,
    "swiglu of what is expanded": swiglu_expanded,
}


@pytest.mark.parametrize("name", KERNELS)
def test_far_rows_are_found(memory: Tensor, name: str) -> None:
    near = normal(ROWS, 32, dtype=torch.float16)
    far = memory.as_strided((ROWS, 32), (STRIDE, 1))
    far.copy_(near)
    assert torch.equal(KERNELS[name](far), KERNELS[name](near))
    assert torch.equal(far, near)
