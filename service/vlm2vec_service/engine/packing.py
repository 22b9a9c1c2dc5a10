"""Inputs to one flat sequence of tokens, in which those of one adapter are neighbours."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vlm2vec_service.engine.adapter import Adapter
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.stage import Group, Stage
from vlm2vec_service.preprocess.prepared import Prepared


@dataclass(frozen=True)
class Item:
    """An input of a batch and how to embed it.

    ``adapter`` None is the base model. ``normalize`` says whether to L2-normalise the vector; None
    does as the adapter says.
    """

    prepared: Prepared
    adapter: Adapter | None
    normalize: bool | None = None

    @property
    def unit(self) -> bool:
        """Says whether the vector is to have length 1."""
        if self.normalize is not None:
            return self.normalize
        return self.adapter is None or self.adapter.embedding.normalize


@dataclass(frozen=True)
class PackedBatch:
    """A batch in the order in which it runs; ``order[i]`` is the caller's index of its item i.

    ``token_ids`` is int64 ``(total,)`` and ``positions`` int64 ``(3, total)``; ``last`` is int64
    ``(inputs,)`` and holds the index of each input's last token. ``token_stage`` has the adapters
    where a row is a token, ``input_stage`` where it is an input.
    """

    items: Sequence[Item]
    order: Sequence[int]
    token_ids: Tensor
    positions: Tensor
    last: Tensor
    segments: Segments
    token_stage: Stage
    input_stage: Stage

    @property
    def lengths(self) -> Sequence[int]:
        """Counts the tokens of each input."""
        return self.segments.lengths


def pack(items: Sequence[Item], device: torch.device) -> PackedBatch:
    """Sorts ``items`` by adapter and lays them out behind each other.

    Those of one adapter are sorted by length, so that attention on a CPU can take equal lengths
    together.
    """
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
        token_stage=Stage(group_rows(adapters, lengths), device),
        input_stage=Stage(group_rows(adapters, [1] * len(items)), device),
    )


def group_rows(adapters: Sequence[Adapter | None], counts: Sequence[int]) -> list[Group]:
    """Makes a group of each run of neighbours that have the same adapter.

    ``counts`` holds the number of rows of each neighbour. The base model, None, has no group.
    """
    groups, start = [], 0
    for _, run in itertools.groupby(zip(adapters, counts, strict=True), key=lambda x: id(x[0])):
        members = list(run)
        stop = start + sum(count for _, count in members)
        adapter = members[0][0]
        if adapter is not None:
            groups.append(adapter.group(start, stop))
        start = stop
    return groups


def batches(items: Sequence[Item], token_budget: int) -> list[list[int]]:
    """Cuts ``items``, in order, into batches of at most ``token_budget`` tokens.

    An item that is longer gets a batch of its own. Returns the indices of each batch's items.
    """
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
