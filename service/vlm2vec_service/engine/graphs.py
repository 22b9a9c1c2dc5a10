"""CUDA graphs of the decoder, so that a small batch does not wait for Python to launch its kernels.

A graph is recorded once for batches of at most so many tokens, and replayed for each that fits: one
launch in place of hundreds. What differs between such batches is one array of whole numbers, which
is copied to where the graph reads it, and the first hidden states where there are images.
"""

import collections
import functools
import logging
import math
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.decoder import Decoder
from vlm2vec_service.engine.packing import PackedBatch
from vlm2vec_service.engine.stage import Run, Stage
from vlm2vec_service.engine.transfer import to_device

log = logging.getLogger(__name__)

TOKENS = (16, 32, 64, 96, *range(128, 1024, 128), *range(1024, 4097, 256))
"""The sizes of graphs. A larger batch keeps a GPU busy for longer than its launches take."""
LENGTHS = (64, 256, 1024, 4096)
"""The longest inputs of graphs; the attention starts work for each input of this length."""
MOST = 128
"""Graphs that are kept. They share the memory of their intermediate results."""
PAUSE = 16
"""Batches of a size that run without a graph once the size lost its own, or none could be recorded.
Recording takes as long as several batches: sizes that took each other's place would all be slow."""


@dataclass(frozen=True)
class Size:
    """What a graph is recorded for: at most so many tokens, inputs, tokens of one input, low-rank
    adapters and ranks of one; the identity of the merged copy that all rows go through; whether
    there are images, and whether all vectors are to have length 1."""

    tokens: int
    inputs: int
    longest: int
    adapters: int
    rank: int
    merged: int
    media: bool
    unit: bool


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
    """Runs ``decoder``, that of ``backbone``, by graphs where a batch is small.

    A size is recorded when it comes for the second time.
    """

    def __init__(self, backbone: Backbone, decoder: Decoder) -> None:
        self.backbone = backbone
        self.decoder = decoder
        self._pool = torch.cuda.graph_pool_handle()
        self._seen: collections.Counter[Size] = collections.Counter()
        self._graphs: collections.OrderedDict[Size, Graph] = collections.OrderedDict()

    @functools.cached_property
    def _entering(self) -> Tensor:
        """What enters the decoder where there are media, ``(1 + deep_layers, tokens, dim)``: the
        same memory for all graphs, of which each would have up to 134 MB of its own in a Qwen3-VL
        of 8 billion parameters."""
        embeddings = self.backbone.model.embed_tokens.weight
        shape = 1 + self.backbone.deep_layers, TOKENS[-1], embeddings.shape[1]
        return embeddings.new_zeros(shape)

    def run(self, batch: PackedBatch, embed: Callable[[PackedBatch], Tensor]) -> Tensor | None:
        """Computes the vectors of ``batch``, float32 ``(inputs, dim)``, or None if it has to run
        without a graph. ``embed`` computes what enters the decoder where there are images."""
        size = size_of(batch, self.backbone.plain_length)
        if size is None:
            return None
        graph = self._graphs.get(size) or self._record(size, batch)
        if graph is None:
            return None
        self._graphs.move_to_end(size)
        vectors = graph.run(batch, embed(batch) if size.media else None)
        return vectors if size.unit else batch.finish(vectors)

    def _record(self, size: Size, batch: PackedBatch) -> "Graph | None":
        """Records a graph of ``size``, that of ``batch``, unless it is too early for one or the
        device cannot."""
        self._seen[size] += 1
        if self._seen[size] < 2:
            return None
        stream = torch.cuda.current_stream(batch.segments.device)
        try:
            entering = self._entering[:, : size.tokens] if size.media else None
            graph = Graph(self.backbone, self.decoder, size, batch, self._pool, entering)
        except RuntimeError as error:  # mostly out of memory, which the batch may do with
            torch.cuda.set_stream(stream)  # where recording ends by an error it stays on its own
            self._seen[size] = -PAUSE
            log.warning("a graph of %d tokens cannot be recorded: %s", size.tokens, error)
            return None
        self._graphs[size] = graph
        if (merged := batch.token_stage.only_copy(sum(batch.lengths))) is not None:
            # A graph has the addresses of the copy's weights, and no other hold on them.
            weakref.finalize(merged, self._graphs.pop, size, None)
        if len(self._graphs) > MOST:
            oldest, _ = self._graphs.popitem(last=False)
            self._seen[oldest] = -PAUSE
        return graph


class Graph:
    """The decoder, recorded for batches of one `Size`, of which ``batch`` is one.

    ``pool`` and ``entering``, ``(1 + deep_layers, size.tokens, dim)`` or without media None, are
    memory that all graphs share, since one runs after the other.
    """

    def __init__(
        self,
        backbone: Backbone,
        decoder: Decoder,
        size: Size,
        batch: PackedBatch,
        pool: Any,
        entering: Tensor | None,
    ) -> None:
        self.size = size
        embeddings = backbone.model.embed_tokens.weight
        products = len(batch.token_stage.host_table) if size.rank else 0
        self.numbers = Numbers(size, products)
        self.input = torch.zeros(self.numbers.count, dtype=torch.int64, device=embeddings.device)
        ids, positions, last, boundaries, token_tiles, input_tiles, table = self.numbers.split(
            self.input
        )
        self.entering = entering
        merged = batch.token_stage.only_copy(sum(batch.lengths))

        def run() -> Tensor:
            fixed = boundaries.to(torch.int32)
            segments = Segments([size.longest], causal=True, device=ids.device, fixed=fixed)
            # The decoder overwrites what enters it, and so does the next batch.
            states = backbone.embed_tokens(ids)[None] if entering is None else entering
            rotary = backbone.rotary(positions, [size.longest])
            decoder.rows.stage, pooled_stage = (
                FixedStage(tiles.to(torch.int32), table, size.rank, merged)
                for tiles in (token_tiles, input_tiles)
            )
            vectors = decoder.run(states, rotary, segments, last, pooled_stage).float()
            return F.normalize(vectors, dim=1) if size.unit else vectors

        side = torch.cuda.Stream(ids.device)
        side.wait_stream(torch.cuda.current_stream(ids.device))
        with torch.cuda.stream(side):
            run()  # compiles kernels and makes workspaces, neither of which a graph may do
        torch.cuda.current_stream(ids.device).wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        # Other threads read adapters onto the GPU meanwhile.
        with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
            self.output = run()

    def run(self, batch: PackedBatch, entering: Tensor | None) -> Tensor:
        """Replays the graph for ``batch``: float32 ``(inputs, dim)``.

        ``entering`` is what enters its decoder, ``(1 + deep_layers, total, dim)``, if it has
        images.
        """
        if self.entering is not None and entering is not None:
            self.entering[:, : entering.shape[1]] = entering
        self.input.copy_(to_device(self.numbers.of(batch), self.input.device))
        self.graph.replay()
        return self.output[: len(batch.items)].clone()


class Numbers:
    """The whole numbers that a graph of ``size`` reads, one behind the other in one array.

    They are the token ids, the positions, the last tokens, the boundaries, the tiles of the tokens
    and of the inputs, and the table of the adapters for ``products`` products.
    """

    def __init__(self, size: Size, products: int) -> None:
        self.size = size
        tiles = [_tiles(rows, size) if size.rank else 0 for rows in (size.tokens, size.inputs)]
        self.shapes: list[tuple[int, ...]] = [
            (size.tokens,), (3, size.tokens), (size.inputs,), (size.inputs + 1,),
            (tiles[0], 3), (tiles[1], 3), (products, size.adapters + 1, 5),
        ]  # fmt: skip
        self.count = sum(map(math.prod, self.shapes))

    def split(self, array: Tensor) -> list[Tensor]:
        """Gives the parts of ``array``, ``(count,)``, in their shapes."""
        parts = array.split([math.prod(shape) for shape in self.shapes])
        return [part.view(shape) for part, shape in zip(parts, self.shapes, strict=True)]

    def of(self, batch: PackedBatch) -> npt.NDArray[np.int64]:
        """Fills an array, int64 ``(count,)``, for ``batch``. The rest is zero: other tokens and
        inputs than the batch's are computed and read by nobody."""
        array = np.zeros(self.count, np.int64)
        ids, positions, last, boundaries, *tiles, table = (
            part.numpy() for part in self.split(torch.from_numpy(array))
        )
        tokens, inputs = len(batch.host_ids), len(batch.items)
        ids[:tokens], positions[:, :tokens] = batch.host_ids, batch.host_positions
        last[:inputs] = batch.host_pooled
        boundaries[:] = tokens
        boundaries[0], boundaries[1 : inputs + 1] = 0, batch.host_pooled + 1
        if self.size.rank:
            # The place behind the adapters says that there is none.
            known = batch.token_stage.host_table
            table[:, : known.shape[1]] = known
            stages = batch.token_stage, batch.pooled_stage
            rows = self.size.tokens, self.size.inputs
            for part, stage, count in zip(tiles, stages, rows, strict=True):
                cut = ops.tiles(stage.spans(count), ops.block_rows(count))
                part[: len(cut)] = cut
        return array


def size_of(batch: PackedBatch, plain_length: int) -> Size | None:
    """Finds the size of the graph for ``batch``; None if there is no graph of its kind.

    ``plain_length`` is that of the backbone.
    """
    low_rank, tokens, longest = batch.token_stage.low_rank, sum(batch.lengths), max(batch.lengths)
    merged = batch.token_stage.only_copy(tokens)
    several = batch.token_stage.runs and merged is None
    last_only = batch.segments.causal and len(batch.host_pooled) == len(batch.items)
    if tokens > TOKENS[-1] or longest > min(LENGTHS[-1], plain_length) or several or not last_only:
        return None
    rank = int(batch.token_stage.host_table[..., 4].max()) if low_rank else 0
    return Size(
        tokens=next(size for size in TOKENS if size >= tokens),
        inputs=_power_of_two(len(batch.items)),
        longest=min(plain_length, next(size for size in LENGTHS if size >= longest)),
        adapters=_power_of_two(len(low_rank)) if low_rank else 0,
        rank=-(-rank // 16) * 16,
        merged=0 if merged is None else id(merged),
        media=any(item.prepared.media for item in batch.items),
        unit=bool(batch.units.all()),
    )


def _tiles(rows: int, size: Size) -> int:
    """Counts the tiles that ``rows`` rows of so many adapters can at most be cut into: each of
    them, and the rows in front of each and behind the last, may end with a part of one."""
    return rows // ops.block_rows(rows) + 2 * size.adapters + 1


def _power_of_two(count: int) -> int:
    return 1 << (count - 1).bit_length()
