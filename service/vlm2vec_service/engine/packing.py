"""Inputs to one flat sequence of tokens, in which those of one adapter are neighbours."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.adapter import Adapter
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.stage import Group, Stage
from vlm2vec_service.engine.transfer import to_device
from vlm2vec_service.preprocess.prepared import Prepared

Merged = Mapping[str, Tensor]
"""An adapter's merged copy: weights ``(out, in)`` by the name of the product."""
ChooseCopy = Callable[[Adapter, int, bool], Merged | None]
"""Gives the merged copy that so many rows of an adapter should go through, if any; the last
argument says whether they are all the rows that there are."""


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
class Share:
    """What of a batch is one adapter's, or with None the base model's.

    Where a row is a token, the rows go through ``copy_of_tokens``, and where it is an input through
    ``copy_of_inputs``, unless that is None.
    """

    adapter: Adapter | None
    inputs: int
    tokens: int
    copy_of_tokens: Merged | None
    copy_of_inputs: Merged | None

    @property
    def path(self) -> str:
        """Says how the tokens pass the products: ``base``, ``low_rank`` or ``merged``."""
        if self.copy_of_tokens is not None:
            return "merged"
        return "base" if self.adapter is None else "low_rank"


@dataclass(frozen=True)
class PackedBatch:
    """A batch in the order in which it runs; ``order[i]`` is the caller's index of its item i.

    ``host_ids`` is int64 ``(total,)`` and ``host_positions`` int64 ``(3, total)``; ``host_last`` is
    int64 ``(inputs,)`` and holds the index of each input's last token. ``token_stage`` has the
    adapters where a row is a token, ``input_stage`` where it is an input; ``shares`` are theirs in
    order.
    """

    items: Sequence[Item]
    order: Sequence[int]
    host_ids: npt.NDArray[np.int64]
    host_positions: npt.NDArray[np.int64]
    host_last: npt.NDArray[np.int64]
    segments: Segments
    token_stage: Stage
    input_stage: Stage
    shares: Sequence[Share]

    @property
    def lengths(self) -> Sequence[int]:
        """Counts the tokens of each input."""
        return self.segments.lengths

    @cached_property
    def token_ids(self) -> Tensor:
        """Copies ``host_ids`` to the device."""
        return to_device(self.host_ids, self.segments.device)

    @cached_property
    def positions(self) -> Tensor:
        """Copies ``host_positions`` to the device."""
        return to_device(self.host_positions, self.segments.device)

    @cached_property
    def last(self) -> Tensor:
        """Copies ``host_last`` to the device."""
        return to_device(self.host_last, self.segments.device)

    @cached_property
    def units(self) -> npt.NDArray[np.bool_]:
        """Says of each input whether its vector is to have length 1, ``(inputs,)``."""
        return np.array([item.unit for item in self.items])

    def finish(self, states: Tensor) -> Tensor:
        """Makes the vectors of ``states``, float32 ``(inputs, dim)``."""
        if not self.units.any():
            return states
        unit = F.normalize(states, dim=1)
        if self.units.all():
            return unit
        return torch.where(to_device(self.units, states.device)[:, None], unit, states)


def without_copy(adapter: Adapter, rows: int, alone: bool) -> None:
    """Chooses no merged copy."""


def pack(
    items: Sequence[Item], device: torch.device, choose_copy: ChooseCopy = without_copy
) -> PackedBatch:
    """Sorts ``items`` by adapter and lays them out behind each other.

    Those of one adapter are sorted by length, so that attention on a CPU can take equal lengths
    together.
    """
    shares = _shares(items, choose_copy)
    place = {id(share.adapter): place for place, share in enumerate(shares)}
    order = sorted(
        range(len(items)), key=lambda i: (place[id(items[i].adapter)], len(items[i].prepared))
    )
    items = [items[i] for i in order]
    lengths = [len(item.prepared) for item in items]
    token_ids = np.concatenate([item.prepared.token_ids for item in items])
    positions = np.concatenate([item.prepared.positions for item in items], axis=1)
    tokens = ((share.adapter, share.tokens, share.copy_of_tokens) for share in shares)
    inputs = ((share.adapter, share.inputs, share.copy_of_inputs) for share in shares)
    return PackedBatch(
        items=items,
        order=order,
        host_ids=token_ids.astype(np.int64),
        host_positions=positions.astype(np.int64),
        host_last=np.cumsum(lengths, dtype=np.int64) - 1,
        segments=Segments(lengths, causal=True, device=device),
        token_stage=Stage(_groups(tokens), device),
        input_stage=Stage(_groups(inputs), device),
        shares=shares,
    )


def _shares(items: Sequence[Item], choose_copy: ChooseCopy) -> list[Share]:
    """Counts what each adapter has of ``items``, in the order in which the batch is to run."""
    own: dict[int, list[Item]] = {}
    for item in items:
        own.setdefault(id(item.adapter), []).append(item)
    shares = []
    for members in own.values():
        adapter, alone = members[0].adapter, len(own) == 1
        inputs, tokens = len(members), sum(len(item.prepared) for item in members)
        copies = [
            None if adapter is None else choose_copy(adapter, rows, alone)
            for rows in (tokens, inputs)
        ]
        shares.append(Share(adapter, inputs, tokens, *copies))
    # What has no copy is together, as one product with the base's weights serves it all.
    return sorted(shares, key=lambda share: (share.copy_of_tokens is not None, id(share.adapter)))


def _groups(rows: Iterable[tuple[Adapter | None, int, Merged | None]]) -> list[Group]:
    """Makes a group of each adapter's ``rows``: their number, and the copy they go through.

    The base model, None, has no group.
    """
    groups, start = [], 0
    for adapter, count, merged in rows:
        if adapter is not None:
            groups.append(adapter.group(start, start + count, merged))
        start += count
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
