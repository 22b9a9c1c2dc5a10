"""Which rows belong to which adapter while a batch goes through the matrix products."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.transfer import to_device

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """Neighbouring rows of one adapter: from ``start`` up to, but without, ``stop``.

    ``products`` holds what the adapter adds, by the name of the product, and ``pointers`` where
    that lies on a GPU: int64 ``(products of the model, 5)``, one `LowRank.pointers` each. With
    ``merged``, by the name of the product too, these rows go through the adapter's own weights
    instead, ``(out, in)`` each; what is not among them is the base model's.
    """

    products: Mapping[str, LowRank]
    start: int
    stop: int
    merged: Mapping[str, Tensor] | None = None
    pointers: npt.NDArray[np.int64] | None = None


@dataclass(frozen=True)
class Run:
    """Neighbouring rows that one weight multiplies: of one merged copy, or, None, the base's."""

    merged: Mapping[str, Tensor] | None
    start: int
    stop: int | None


class Stage:
    """A stretch of a forward pass in which the rows stay what they are: tokens, inputs or patches.

    ``groups`` are in the order of their rows; rows in no group get the base model. ``device`` is
    where the rows are.
    """

    def __init__(self, groups: Sequence[Group] = (), device: torch.device = CPU) -> None:
        self.low_rank = [group for group in groups if group.merged is None]
        self.device = device
        self.runs = _runs([group for group in groups if group.merged is not None])
        self._tiles: dict[int, Tensor] = {}

    def addition(self, product: str, index: int, y: Tensor, x: Tensor) -> ops.Addition | None:
        """Computes what low-rank adapters add to ``y``, the product called ``product`` of ``x``.

        ``index`` is the product's place among those of the model. On a CPU it is added at once, and
        None is returned, as it is where nothing is to be added.
        """
        groups = [
            ops.LowRankGroup(group.products[product], group.start, group.stop)
            for group in self.low_rank
            if product in group.products
        ]
        if not groups:
            return None
        if self.table is None:
            ops.add_low_rank(y, x, groups)
            return None
        tensors = [tensor for group in groups for tensor in group.low_rank.tensors]
        rank = max(group.low_rank.rank for group in groups)
        return ops.mix(x, tensors, self.tiles(len(x)), self.table[index], rank)

    def only_copy(self, rows: int) -> Mapping[str, Tensor] | None:
        """Finds the merged copy that all of ``rows`` rows go through, if it is one."""
        first = self.runs[0] if self.runs else None
        return (
            first.merged if first is not None and first.start == 0 and first.stop == rows else None
        )

    def tiles(self, rows: int) -> Tensor:
        """Cuts ``rows`` rows into tiles for a GPU: int32 ``(tiles, 3)``, see `ops.tiles`."""
        if rows not in self._tiles:
            cut = ops.tiles(self.spans(rows), ops.block_rows(rows))
            self._tiles[rows] = to_device(cut, self.device)
        return self._tiles[rows]

    def spans(self, rows: int) -> list[tuple[int, int, int]]:
        """Lists the first row and the last + 1 of each low-rank adapter, and its place in `table`,
        and between them of the rows that have none."""
        spans, end = [], 0
        for slot, group in enumerate(self.low_rank):
            spans += [(end, group.start, len(self.low_rank)), (group.start, group.stop, slot)]
            end = group.stop
        spans.append((end, rows, len(self.low_rank)))
        return [(start, min(stop, rows), slot) for start, stop, slot in spans if start < stop]

    @cached_property
    def host_table(self) -> npt.NDArray[np.int64]:
        """Lays out where the adapters lie on a GPU, ``(products, groups + 1, 5)``, each as
        `LowRank.pointers`. The last place says that there is none."""
        pointers = [group.pointers for group in self.low_rank if group.pointers is not None]
        assert len(pointers) == len(self.low_rank), "an adapter without pointers is not on a GPU"
        return np.stack([*pointers, np.zeros_like(pointers[0])], axis=1)

    @cached_property
    def table(self) -> Tensor | None:
        """Copies `host_table` to a GPU.

        It is None on a CPU, where nothing reads it, and without low-rank adapters.
        """
        if self.device.type == "cpu" or not self.low_rank:
            return None
        return to_device(self.host_table, self.device)


@dataclass
class Rows:
    """Holds the present stage. All products of a model share one, and the engine changes it."""

    stage: Stage


def _runs(merged: Sequence[Group]) -> list[Run]:
    """Covers all rows by the groups of ``merged`` copies and the base's rows between them.

    There are none where no copy is in use: one product does it all.
    """
    if not merged:
        return []
    runs, end = [], 0
    for group in merged:
        runs += [Run(None, end, group.start)] if group.start > end else []
        runs.append(Run(group.merged, group.start, group.stop))
        end = group.stop
    return [*runs, Run(None, end, None)]
