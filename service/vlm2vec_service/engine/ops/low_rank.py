"""Adding what the adapters of a batch add to a matrix product."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.ops.registry import define, wants_operator

PROGRAMS = 264
"""Programs of a kernel that keep a GPU busy: two for each of an H100's 132 multiprocessors."""
LEAST_INPUTS = 256
"""Columns of the input for which a program of its own still pays."""


@dataclass(frozen=True)
class LowRankGroup:
    """Neighbouring rows that get the same addition: ``start`` up to, but without, ``stop``."""

    low_rank: LowRank
    start: int
    stop: int


def block_rows(rows: int) -> int:
    """Returns how many rows a tile has at most, where a product has ``rows``."""
    return 16 if rows <= 512 else 32 if rows <= 4096 else 64


def tiles(spans: Sequence[tuple[int, int]], block: int) -> npt.NDArray[np.int32]:
    """Cuts spans of rows, first and last + 1, into tiles of at most ``block`` rows.

    Returns ``(tiles, 3)``: the place of the tile's span among ``spans``, its first row, and its
    last + 1.
    """
    cut = [
        (slot, first, min(first + block, stop))
        for slot, (start, stop) in enumerate(spans)
        for first in range(start, stop, block)
    ]
    return np.array(cut, np.int32).reshape(-1, 3)


def add_low_rank(
    y: Tensor,
    x: Tensor,
    groups: Sequence[LowRankGroup],
    tiles: Tensor | None = None,
    table: Tensor | None = None,
) -> None:
    """Turns the base product ``y`` of ``x`` into each group's own, in place.

    ``x`` is ``(rows, in)`` and ``y`` ``(rows, out)``; a group's rows become
    ``gain * y + shift + (x aᵀ) bᵀ``, in which ``x aᵀ`` is rounded to the tensors' type. Rows in no
    group keep their values. ``tiles`` and ``table`` say what `add_tiled` needs to know of the
    groups; without them, as on a CPU, the groups are done one by one.
    """
    if tiles is not None and table is not None and wants_operator(y):
        tensors = list(itertools.chain.from_iterable(group.low_rank.tensors for group in groups))
        rank = max(group.low_rank.rank for group in groups)
        add_tiled(y, x, tensors, tiles, table, rank)
        return
    for group in groups:
        rows = slice(group.start, group.stop)
        _add(group.low_rank, x[rows], y[rows])


def add_tiled(
    y: Tensor, x: Tensor, tensors: Sequence[Tensor], tiles: Tensor, table: Tensor, rank: int
) -> None:
    """Does what `add_low_rank` does, for all groups at once, on a GPU.

    ``tiles`` are those of `tiles` for blocks of `block_rows`, and may have more with no rows.
    ``table``, int64 ``(slots, 5)``, has the `LowRank.pointers` of each span; where ``a`` is 0 the
    span's rows keep their values. No rank is larger than ``rank``. ``tensors`` are those that
    ``table`` points to: naming them keeps their memory while the kernels run.
    """
    count, block = len(tiles), block_rows(len(x))
    if not count:
        return
    rank = -(-rank // 16) * 16  # what a kernel can load and store in few instructions
    mixed = _shrink(x, tensors, table, tiles, rank, _splits(count, rank, x.shape[1]), block)
    _expand(y, mixed, tensors, table, tiles, block)


def _splits(tiles: int, rank: int, size: int) -> int:
    """Decides into how many parts the inputs of a product are cut, for programs enough."""
    programs = tiles * -(-rank // 64)
    return max(1, min(PROGRAMS // programs, size // LEAST_INPUTS))


def _add(low_rank: LowRank, x: Tensor, y: Tensor) -> None:
    """Adds to all rows of ``y`` what ``low_rank`` makes of ``x``."""
    if low_rank.shift is not None and low_rank.gain is not None:
        torch.addcmul(low_rank.shift, y, low_rank.gain, out=y)
    elif low_rank.gain is not None:
        y.mul_(low_rank.gain)
    y.addmm_(F.linear(x, low_rank.a), low_rank.b.T)


_shrink = define(
    "shrink(Tensor x, Tensor[] tensors, Tensor table, Tensor tiles, int rank, int splits,"
    " int block) -> Tensor",
    "low_rank",
    lambda x, tensors, table, tiles, rank, splits, block: x.new_empty(
        splits, len(x), rank, dtype=torch.float32
    ),
)
_expand = define(
    "expand(Tensor(a!) y, Tensor mixed, Tensor[] tensors, Tensor table, Tensor tiles, int block)"
    " -> ()",
    "low_rank",
    lambda y, mixed, tensors, table, tiles, block: None,
)
