"""Inputs to one flat sequence of tokens, the rows of one adapter together."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlm2vec_service.engine.adapter import Adapter
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.linear import Group
from vlm2vec_service.preprocess.prepared import Prepared


@dataclass(frozen=True)
class Item:
    """An input, the adapter to embed it with (None is the base model), and whether to L2-normalise
    (None does as the adapter says)."""

    prepared: Prepared
    adapter: Adapter | None
    normalize: bool | None = None

    @property
    def unit(self) -> bool:
        """Whether the vector is to have length 1."""
        if self.normalize is not None:
            return self.normalize
        return self.adapter is None or self.adapter.embedding.normalize


@dataclass(frozen=True)
class PackedBatch:
    """A batch in the order in which it runs; ``order[i]`` is the caller's index of its item i.

    ``token_ids`` is int64 ``(total,)``, ``positions`` int64 ``(3, total)``, ``last`` int64
    ``(inputs,)``: the index of each input's last token.
    """

    items: Sequence[Item]
    order: Sequence[int]
    token_ids: Tensor
    positions: Tensor
    last: Tensor
    segments: Segments
    token_groups: Sequence[Group]
    input_groups: Sequence[Group]

    @property
    def lengths(self) -> Sequence[int]:
        """Tokens of each input."""
        return self.segments.lengths


def pack(items: Sequence[Item], device: torch.device) -> PackedBatch:
    """Lays ``items`` out: by adapter, and within one by length, so that attention on a CPU can take
    equal lengths together."""
    order = sorted(range(len(items)), key=lambda i: (id(items[i].adapter), len(items[i].prepared)))
    items = [items[i] for i in order]
    adapters = [item.adapter for item in items]
    lengths = [len(item.prepared) for item in items]
    token_ids = np.concatenate([item.prepared.token_ids for item in items])
    positions = np.concatenate([item.prepared.positions for item in items], axis=1)
    return PackedBatch(
        items=items,
        order=order,
        token_ids=torch.from_numpy(token_ids).to(device, torch.int64),
        positions=torch.from_numpy(positions).to(device, torch.int64),
        last=torch.tensor([*itertools.accumulate(lengths)], device=device) - 1,
        segments=Segments(lengths, causal=True, device=device),
        token_groups=group_rows(adapters, lengths),
        input_groups=group_rows(adapters, [1] * len(items)),
    )


def group_rows(adapters: Sequence[Adapter | None], counts: Sequence[int]) -> list[Group]:
    """One group for each run of neighbours with the same adapter; ``counts`` are rows of each."""
    groups, start = [], 0
    for _, run in itertools.groupby(zip(adapters, counts, strict=True), key=lambda x: id(x[0])):
        members = list(run)
        stop = start + sum(count for _, count in members)
        adapter = members[0][0]
        if adapter is not None:
            groups.append(Group(adapter.layers, start, stop))
        start = stop
    return groups


def batches(items: Sequence[Item], token_budget: int) -> list[list[int]]:
    """Cuts ``items`` into batches, in order, of at most ``token_budget`` tokens; an item that is
    longer gets one of its own. Returns their indices."""
    cut: list[list[int]] = []
    used = token_budget + 1
    for index, item in enumerate(items):
        length = len(item.prepared)
        if used + length > token_budget:
            cut.append([])
            used = 0
        cut[-1].append(index)
        used += length
    return cut
