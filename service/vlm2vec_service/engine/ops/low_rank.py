"""Adding what the adapters of a batch add to a matrix product."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.low_rank import LowRank


@dataclass(frozen=True)
class LowRankGroup:
    """Neighbouring rows that get the same addition: ``start`` up to, but without, ``stop``."""

    low_rank: LowRank
    start: int
    stop: int


def add_low_rank(
    y: Tensor,
    x: Tensor,
    groups: Sequence[LowRankGroup],
    tiles: Tensor | None = None,
    table: Tensor | None = None,
) -> None:
    """Turns the base product ``y`` of ``x`` into each group's own, in place.

    ``x`` is ``(rows, in)`` and ``y`` ``(rows, out)``; a group's rows become
    ``gain * y + shift + (x aᵀ) bᵀ``. Rows in no group keep their values. ``tiles`` and ``table``
    say the same as ``groups`` to a GPU's kernel; a CPU needs neither.
    """
    for group in groups:
        rows = slice(group.start, group.stop)
        _add(group.low_rank, x[rows], y[rows])


def _add(low_rank: LowRank, x: Tensor, y: Tensor) -> None:
    """Adds to all rows of ``y`` what ``low_rank`` makes of ``x``."""
    if low_rank.shift is not None and low_rank.gain is not None:
        torch.addcmul(low_rank.shift, y, low_rank.gain, out=y)
    elif low_rank.gain is not None:
        y.mul_(low_rank.gain)
    y.addmm_(F.linear(x, low_rank.a), low_rank.b.T)
