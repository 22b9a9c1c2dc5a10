"""Adding what the adapters of a batch add to a matrix product."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.ops.registry import define

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


def tiles(spans: Sequence[tuple[int, int, int]], block: int) -> npt.NDArray[np.int32]:
    """Cuts spans of rows, each its first, its last + 1 and its place in a table, into tiles.

    Returns ``(tiles, 3)``: the place, the first row, and the last + 1, at most ``block`` later.
    """
    cut = [
        (slot, first, min(first + block, stop))
        for start, stop, slot in spans
        for first in range(start, stop, block)
    ]
    return np.array(cut, np.int32).reshape(-1, 3)


@dataclass(frozen=True)
class Addition:
    """What the adapters of a batch are still to add to a product, which an operation that reads it
    anyway can do: the product's rows become ``gain * y + shift + mixed bᵀ``.

    ``mixed``, float32 ``(splits, rows, rank)``, is the product's input times each adapter's ``a``,
    in parts that are to be summed. The rest is as `mix` was given it; a tile has at most ``block``
    rows.
    """

    mixed: Tensor
    tensors: Sequence[Tensor]
    table: Tensor
    tiles: Tensor
    block: int


def add_low_rank(y: Tensor, x: Tensor, groups: Sequence[LowRankGroup]) -> None:
    """Turns the base product ``y`` of ``x`` into each group's own, in place, one group by one.

    ``x`` is ``(rows, in)`` and ``y`` ``(rows, out)``; a group's rows become
    ``gain * y + shift + (x aᵀ) bᵀ``, in which ``x aᵀ`` is rounded to the tensors' type. Rows in no
    group keep their values. On a GPU, `mix` and then `add` or `swiglu_with` do the same for all
    groups at once.
    """
    for group in groups:
        rows = slice(group.start, group.stop)
        _add(group.low_rank, x[rows], y[rows])


def mix(x: Tensor, tensors: Sequence[Tensor], tiles: Tensor, table: Tensor, rank: int) -> Addition:
    """Multiplies the rows of ``x``, ``(rows, in)`` on a GPU, by their adapters' ``a``.

    ``tiles`` are those of `tiles` for blocks of `block_rows`, and may have more with no rows; for
    `swiglu_with` they have to cover all rows. ``table``, int64 ``(slots, 5)``, has the
    `LowRank.pointers` of each span, in which ``a`` is 0 where there is nothing to add. No rank is
    larger than ``rank``. ``tensors`` are those that ``table`` points to: naming them keeps their
    memory while the kernels run.
    """
    block = block_rows(len(x))
    rank = -(-rank // 16) * 16  # what a kernel can load and store in few instructions
    splits = _splits(len(tiles), rank, x.shape[1])
    mixed = _shrink(x, tensors, table, tiles, rank, splits, block)
    return Addition(mixed, tensors, table, tiles, block)


def add(y: Tensor, addition: Addition) -> None:
    """Adds ``addition`` to the product ``y``, ``(rows, out)``, in place."""
    _expand(y, addition.mixed, addition.tensors, addition.table, addition.tiles, addition.block)


def swiglu_with(gate_up: Tensor, addition: Addition) -> Tensor:
    """Computes the SwiGLU of ``gate_up``, ``(rows, 2 * size)``, to which ``addition`` is still to
    be added: ``(rows, size)``."""
    product: Tensor = _swiglu_expand(
        gate_up, addition.mixed, addition.tensors, addition.table, addition.tiles, addition.block
    )
    return product


def _splits(tiles: int, rank: int, size: int) -> int:
    """Decides into how many parts the inputs of a product are cut, for programs enough."""
    programs = max(1, tiles) * -(-rank // 64)
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
_swiglu_expand = define(
    "swiglu_expand(Tensor gate_up, Tensor mixed, Tensor[] tensors, Tensor table, Tensor tiles,"
    " int block) -> Tensor",
    "low_rank",
    lambda gate_up, mixed, tensors, table, tiles, block: gate_up.new_empty(
        len(gate_up), gate_up.shape[1] // 2
    ),
)
