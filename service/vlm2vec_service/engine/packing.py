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

    ``pooled`` counts the tokens that its vectors are made of. Where all tokens are rows they go
    through ``copy_of_tokens``, and where the pooled ones are through ``copy_of_pooled``, unless
    that is None.
    """

    adapter: Adapter | None
    tokens: int
    pooled: int
    copy_of_tokens: Merged | None
    copy_of_pooled: Merged | None

    @property
    def path(self) -> str:
        """Says how the tokens pass the products: ``base``, ``low_rank`` or ``merged``."""
        if self.copy_of_tokens is not None:
            return "merged"
        return "base" if self.adapter is None else "low_rank"


@dataclass(frozen=True)
class PackedBatch:
    """A batch in the order in which it runs; ``order[i]`` is the caller's index of its item i.

    ``host_ids`` is int64 ``(total,)`` and ``host_positions`` int64 ``(3, total)``; ``host_pooled``
    is int64 ``(pooled,)`` and holds the indices of the tokens that vectors are made of, the last
    of each input. ``token_stage`` has the adapters where a row is a token, ``pooled_stage``
    where it is a pooled token; ``shares`` are theirs in order.
    """

    items: Sequence[Item]
    order: Sequence[int]
    host_ids: npt.NDArray[np.int64]
    host_positions: npt.NDArray[np.int64]
    host_pooled: npt.NDArray[np.int64]
    segments: Segments
    token_stage: Stage
    pooled_stage: Stage
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
    def pooled(self) -> Tensor:
        """Copies ``host_pooled`` to the device."""
        return to_device(self.host_pooled, self.segments.device)

    @cached_property
    def media_rows(self) -> Tensor:
        """Lists the tokens that media stand for, int64, on the device."""
        rows, offset = [np.empty(0, np.int64)], 0
        for item in self.items:
            for media in item.prepared.media:
                start = offset + media.start
                rows.append(np.arange(start, start + media.tokens))
            offset += len(item.prepared)
        return to_device(np.concatenate(rows), self.segments.device)

    @cached_property
    def units(self) -> npt.NDArray[np.bool_]:
        """Says of each input whether its vector is to have length 1, ``(inputs,)``."""
        return np.array([item.unit for item in self.items])

    def pool(self, states: Tensor) -> Tensor:
        """Means the ``states`` of the pooled tokens, ``(pooled, dim)``, by input:
        ``(inputs, dim)``."""
        if len(states) == len(self.items):
            return states
        counts = np.array([item.prepared.pooled for item in self.items])
        owners = to_device(np.arange(len(counts)).repeat(counts), states.device)
        sums = states.new_zeros(len(counts), states.shape[1]).index_add(0, owners, states)
        return sums / to_device(counts, states.device)[:, None]

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
    lengths = [len(item.prepared) for item in items]
    own: dict[int, list[int]] = {}
    for index, item in enumerate(items):
        own.setdefault(id(item.adapter), []).append(index)
    shares = _shares(items, lengths, list(own.values()), choose_copy)
    order = [
        index
        for share in shares
        for index in sorted(own[id(share.adapter)], key=lengths.__getitem__)
    ]
    items, lengths = [items[i] for i in order], [lengths[i] for i in order]
    token_ids = np.concatenate([item.prepared.token_ids for item in items])
    positions = np.concatenate([item.prepared.positions for item in items], axis=1)
    causal = [not item.prepared.both_ways for item in items]
    tokens = ((share.adapter, share.tokens, share.copy_of_tokens) for share in shares)
    pooled = ((share.adapter, share.pooled, share.copy_of_pooled) for share in shares)
    return PackedBatch(
        items=items,
        order=order,
        host_ids=token_ids.astype(np.int64),
        host_positions=positions.astype(np.int64),
        host_pooled=_last(lengths, [item.prepared.pooled for item in items]),
        segments=Segments.mixed(lengths, causal, device),
        token_stage=Stage(_groups(tokens), device),
        pooled_stage=Stage(_groups(pooled), device),
        shares=shares,
    )


def _last(lengths: Sequence[int], counts: Sequence[int]) -> npt.NDArray[np.int64]:
    """Lists the last ``counts`` tokens of each of inputs behind each other, of ``lengths``."""
    counted = np.cumsum(counts, dtype=np.int64)
    # Behind each input's, as many tokens were left out as are in front of those of the next.
    left_out = np.cumsum(lengths, dtype=np.int64) - counted
    return np.arange(counted[-1]) + left_out.repeat(counts)


def _shares(
    items: Sequence[Item],
    lengths: Sequence[int],
    own: Sequence[Sequence[int]],
    choose_copy: ChooseCopy,
) -> list[Share]:
    """Counts what each adapter has of ``items``, in the order in which the batch is to run.

    ``own`` has the indices of each adapter's, whose tokens ``lengths`` counts.
    """
    shares = []
    for members in own:
        adapter, alone = items[members[0]].adapter, len(own) == 1
        tokens = sum(lengths[index] for index in members)
        pooled = sum(items[index].prepared.pooled for index in members)
        copy = None if adapter is None else choose_copy(adapter, tokens, alone)
        # A copy may be complete between the two questions, and leave. A recorded batch knows its
        # low-rank adapters by their places, which have to be the same for tokens and inputs.
        of_pooled = None if adapter is None or copy is None else choose_copy(adapter, pooled, alone)
        shares.append(Share(adapter, tokens, pooled, copy, of_pooled))
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
