"""The kernels that add what adapters add."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from tests.unit.kernels.close import DEVICE, DTYPES, assert_close, normal

pytest.importorskip("triton", reason="Triton has no wheel for this machine")
from vlm2vec_service.engine import ops
from vlm2vec_service.engine.kernels import low_rank
from vlm2vec_service.engine.low_rank import LowRank


def adapter(
    rank: int, size: int, out: int, dtype: torch.dtype, gain: bool = False, shift: bool = False
) -> LowRank:
    """Random factors, of which a product is about 1."""
    return LowRank(
        normal(rank, size, seed=rank).div(size**0.5).to(dtype),
        normal(out, rank, seed=rank + 1).div(rank**0.5).to(dtype),
        normal(out, dtype=dtype, seed=rank + 2) if gain else None,
        normal(out, dtype=dtype, seed=rank + 3) if shift else None,
    )


def table_of(adapters: Sequence[LowRank | None]) -> Tensor:
    pointers = [(0,) * 5 if each is None else each.pointers for each in adapters]
    return torch.tensor(pointers, dtype=torch.int64, device=DEVICE)


def tiles_of(spans: Sequence[tuple[int, int]], block: int) -> Tensor:
    numbered = [(start, stop, slot) for slot, (start, stop) in enumerate(spans)]
    return torch.from_numpy(ops.tiles(numbered, block)).to(DEVICE)


def exact(
    y: Tensor, x: Tensor, spans: Sequence[tuple[int, int]], each: Sequence[LowRank | None]
) -> Tensor:
    """The sum in float64, but that of the products with ``a``, which are rounded."""
    result = y.double()
    for (start, stop), adds in zip(spans, each, strict=True):
        if adds is None:
            continue
        rows = result[start:stop]
        if adds.gain is not None:
            rows *= adds.gain.double()
        if adds.shift is not None:
            rows += adds.shift.double()
        mixed = (x[start:stop].double() @ adds.a.double().T).to(x.dtype)
        rows += mixed.double() @ adds.b.double().T
    return result


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("block", "splits"), [(16, 1), (32, 3)])
@pytest.mark.parametrize("ranks", [(1, 16, 8), (48, 100, 3)], ids=str)
def test_each_group_of_rows_gets_its_own(
    ranks: tuple[int, int, int], block: int, splits: int, dtype: torch.dtype
) -> None:
    size, out = 200, 150
    x, y = normal(70, size, dtype=dtype), normal(70, out, dtype=dtype, seed=1)
    adapters = [
        adapter(ranks[0], size, out, dtype, gain=True, shift=True),
        None,
        adapter(ranks[1], size, out, dtype, gain=True),
        adapter(ranks[2], size, out, dtype),
    ]
    spans = [(2, 20), (20, 23), (23, 24), (30, 65)]
    expected = exact(y, x, spans, adapters)
    before = y.clone()
    table, tiles = table_of(adapters), tiles_of(spans, block)
    mixed = low_rank.shrink(x, [], table, tiles, 112, splits, block)
    assert (mixed.shape, mixed.dtype) == ((splits, 70, 112), torch.float32)
    low_rank.expand(y, mixed, [], table, tiles, block)
    assert_close(y, expected, scale=4)
    untouched = [0, 1, 20, 21, 22, *range(24, 30), *range(65, 70)]
    assert torch.equal(y[untouched], before[untouched])


def test_what_was_in_memory_before_does_not_get_into_the_sum(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    empty = torch.empty

    def dirty(*shape: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        return empty(*shape, dtype=dtype, device=device).fill_(torch.nan)

    monkeypatch.setattr(torch, "empty", dirty)
    each = adapter(3, 40, 24, torch.float32)
    x, y = normal(5, 40), normal(5, 24, seed=1)
    expected = exact(y, x, [(1, 4)], [each])
    table, tiles = table_of([each]), tiles_of([(1, 4)], 16)
    mixed = low_rank.shrink(x, [], table, tiles, 48, 2, 16)
    low_rank.expand(y, mixed, [], table, tiles, 16)
    assert_close(y, expected, scale=4)


def test_tiles_without_rows_do_nothing() -> None:
    each = adapter(4, 40, 24, torch.float32)
    x, y = normal(5, 40), normal(5, 24, seed=1)
    before = y.clone()
    tiles = torch.zeros(3, 3, dtype=torch.int32, device=DEVICE)
    table = table_of([each])
    low_rank.expand(y, low_rank.shrink(x, [], table, tiles, 16, 1, 16), [], table, tiles, 16)
    assert torch.equal(y, before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("block", "splits"), [(16, 1), (32, 3)])
def test_swiglu_adds_what_is_still_to_be_added(block: int, splits: int, dtype: torch.dtype) -> None:
    size, out = 72, 300
    x, gate_up = normal(50, size, dtype=dtype), normal(50, out, dtype=dtype, seed=1)
    adapters = [
        adapter(16, size, out, dtype, gain=True, shift=True),
        None,
        adapter(5, size, out, dtype),
    ]
    # All rows, those of no adapter too.
    spans = [(0, 20), (20, 23), (23, 50)]
    wide = exact(gate_up, x, spans, adapters)
    gate, up = wide.chunk(2, dim=1)
    table, tiles = table_of(adapters), tiles_of(spans, block)
    mixed = low_rank.shrink(x, [], table, tiles, 16, splits, block)
    product = low_rank.swiglu_expand(gate_up, mixed, [], table, tiles, block)
    assert_close(product, torch.nn.functional.silu(gate) * up, scale=32)
