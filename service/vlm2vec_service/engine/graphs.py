"""CUDA graphs of the decoder, so that a small batch does not wait for Python to launch its kernels.

A graph is recorded once for batches of at most so many tokens, and replayed for each that fits: one
launch in place of hundreds. What differs between such batches lies in tensors that keep their
place, into which each batch is copied before.
"""

import collections
import itertools
import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.decoder import Decoder
from vlm2vec_service.engine.packing import PackedBatch
from vlm2vec_service.engine.stage import Run, Stage
from vlm2vec_service.engine.transfer import to_device

TOKENS = (16, 32, 64, 96, *range(128, 1024, 128), *range(1024, 4097, 256))
"""The sizes of graphs. A larger batch keeps a GPU busy for longer than its launches take."""
LENGTHS = (64, 256, 1024, 4096)
"""The longest inputs of graphs; the attention starts work for each input of this length."""
MOST = 128
"""Graphs that are kept. They share the memory of their intermediate results."""


@dataclass(frozen=True)
class Size:
    """What a graph is recorded for: at most so many tokens, inputs, tokens of one input, low-rank
    adapters and ranks of one, and the identity of the merged copy that all rows go through."""

    tokens: int
    inputs: int
    longest: int
    adapters: int
    rank: int
    merged: int


class FixedStage(Stage):
    """A stage whose low-rank adapters are in tensors that keep their place.

    ``tiles`` is int32 ``(tiles, 3)`` and ``table`` int64 ``(products, adapters, 5)``.
    """

    def __init__(
        self, tiles: Tensor, table: Tensor, rank: int, merged: Mapping[str, Tensor] | None
    ) -> None:
        super().__init__()
        self.runs = [] if merged is None else [Run(merged, 0, None)]
        self.fixed = tiles, table
        self.rank = rank

    def addition(self, product: str, index: int, y: Tensor, x: Tensor) -> ops.Addition | None:
        """Computes what the adapters in the table add to the product ``index``."""
        tiles, table = self.fixed
        return ops.mix(x, (), tiles, table[index], self.rank) if self.rank else None


class DecoderGraphs:
    """Runs ``decoder``, which is on a GPU, by graphs where a batch is small.

    A size is recorded when it comes for the second time.
    """

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: collections.Counter[Size] = collections.Counter()
        self._graphs: collections.OrderedDict[Size, Graph] = collections.OrderedDict()

    def run(
        self, hidden: Tensor, rotary: tuple[Tensor, Tensor], batch: PackedBatch
    ) -> Tensor | None:
        """Computes what `Decoder.run` does, or returns None where that has to."""
        size = size_of(batch)
        if size is None:
            return None
        graph = self._graphs.get(size)
        if graph is None:
            self._seen[size] += 1
            if self._seen[size] == 1:
                return None
            graph = self._graphs[size] = Graph(self.decoder, size, batch, hidden, self._pool)
            if (merged := batch.token_stage.only_copy(len(hidden))) is not None:
                # A graph has the addresses of the copy's weights, and no other hold on them.
                weakref.finalize(merged, self._graphs.pop, size, None)
            if len(self._graphs) > MOST:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(size)
        return graph.run(hidden, rotary, batch)


class Graph:
    """The decoder, recorded for batches of one `Size`, of which ``batch`` is one.

    ``hidden`` are the batch's states, ``(total, hidden)``; ``pool`` is the memory of all graphs.
    """

    def __init__(
        self,
        decoder: Decoder,
        size: Size,
        batch: PackedBatch,
        hidden: Tensor,
        pool: Any,
    ) -> None:
        self.size = size
        device, half = hidden.device, decoder.head_dim // 2

        def integers(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.zeros(shape, dtype=dtype, device=device)

        self.hidden = hidden.new_zeros(size.tokens, hidden.shape[1])
        self.cos, self.sin = torch.zeros(2, size.tokens, half, device=device).unbind()
        self.boundaries = integers(size.inputs + 1)
        self.last = integers(size.inputs, dtype=torch.int64)
        self.token_tiles = integers(_tiles(size.tokens, size), 3)
        self.input_tiles = integers(_tiles(size.inputs, size), 3)
        products = 0 if batch.token_stage.table is None else len(batch.token_stage.table)
        self.table = integers(products, size.adapters + 1, 5, dtype=torch.int64)
        stages = [
            FixedStage(tiles, self.table, size.rank, batch.token_stage.only_copy(len(hidden)))
            for tiles in (self.token_tiles, self.input_tiles)
        ]
        segments = Segments([size.longest], causal=True, device=device, fixed=self.boundaries)

        def run() -> Tensor:
            decoder.rows.stage = stages[0]
            return decoder.run(
                self.hidden.clone(), (self.cos, self.sin), segments, self.last, stages[1]
            )

        side = torch.cuda.Stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            run()  # compiles kernels and makes workspaces, neither of which a graph may do
        torch.cuda.current_stream(device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads read adapters onto the GPU meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.output = run()

    def run(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], batch: PackedBatch) -> Tensor:
        """Replays the graph for ``batch``: ``(inputs, hidden)``."""
        tokens, inputs = len(hidden), len(batch.items)
        self.hidden[:tokens] = hidden
        for mine, theirs in zip((self.cos, self.sin), rotary, strict=True):
            mine[:tokens] = theirs[:, : mine.shape[1]]
        ends = np.full(self.size.inputs + 1, tokens, np.int32)
        ends[: inputs + 1] = [0, *itertools.accumulate(batch.lengths)]
        self._fill(self.boundaries, ends)
        self.last[:inputs] = batch.last
        if self.size.rank:
            assert batch.token_stage.table is not None
            # The place behind the adapters says that there is none.
            self.table[:, : len(batch.token_stage.low_rank) + 1] = batch.token_stage.table
            self._fill_tiles(self.token_tiles, batch.token_stage, self.size.tokens)
            self._fill_tiles(self.input_tiles, batch.input_stage, self.size.inputs)
        self.graph.replay()
        return self.output[:inputs].clone()

    def _fill_tiles(self, tiles: Tensor, stage: Stage, rows: int) -> None:
        cut = ops.tiles(stage.spans(rows), ops.block_rows(rows))
        padded = np.zeros((len(tiles), 3), np.int32)
        padded[: len(cut)] = cut
        self._fill(tiles, padded)

    @staticmethod
    def _fill(tensor: Tensor, values: npt.NDArray[np.int32]) -> None:
        tensor.copy_(to_device(values, tensor.device))


def size_of(batch: PackedBatch) -> Size | None:
    """Finds the size of the graph for ``batch``; None if there is no graph of its kind."""
    low_rank, tokens, longest = batch.token_stage.low_rank, sum(batch.lengths), max(batch.lengths)
    merged = batch.token_stage.only_copy(tokens)
    if tokens > TOKENS[-1] or longest > LENGTHS[-1] or (batch.token_stage.runs and merged is None):
        return None
    ranks = (each.rank for group in low_rank for each in group.products.values())
    return Size(
        tokens=next(size for size in TOKENS if size >= tokens),
        inputs=_power_of_two(len(batch.items)),
        longest=next(size for size in LENGTHS if size >= longest),
        adapters=_power_of_two(len(low_rank)) if low_rank else 0,
        rank=-(-max(ranks, default=0) // 16) * 16,
        merged=0 if merged is None else id(merged),
    )


def _tiles(rows: int, size: Size) -> int:
    """Counts the tiles that ``rows`` rows of so many adapters can at most be cut into: each of
    them, and the rows in front of each and behind the last, may end with a part of one."""
    return rows // ops.block_rows(rows) + 2 * size.adapters + 1


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
