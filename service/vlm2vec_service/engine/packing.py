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

Item = tuple[Prepared, Adapter | None]
"""An input and the adapter to embed it with; None is the base model."""


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
    adapters = [adapter for _, adapter in items]
    order = sorted(range(len(items)), key=lambda i: (id(adapters[i]), len(items[i][0])))
    items = [items[i] for i in order]
    lengths = [len(prepared) for prepared, _ in items]
    token_ids = np.concatenate([prepared.token_ids for prepared, _ in items])
    positions = np.concatenate([prepared.positions for prepared, _ in items], axis=1)
    return PackedBatch(
        items=items,
        order=order,
        token_ids=torch.from_numpy(token_ids).to(device, torch.int64),
        positions=torch.from_numpy(positions).to(device, torch.int64),
        last=torch.tensor([*itertools.accumulate(lengths)], device=device) - 1,
        segments=Segments(lengths, causal=True, device=device),
        token_groups=group_rows([adapter for _, adapter in items], lengths),
        input_groups=group_rows([adapter for _, adapter in items], [1] * len(items)),
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
    for index, (prepared, _) in enumerate(items):
        if used + len(prepared) > token_budget:
            cut.append([])
            used = 0
        cut[-1].append(index)
        used += len(prepared)
    return cut
