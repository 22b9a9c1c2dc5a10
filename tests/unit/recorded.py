"""A stand-in for CUDA graphs on a CPU, where what was recorded is replayed on the same memory."""

import contextlib
import ctypes
import itertools
import math
from collections.abc import Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vlm2vec_service.engine import decoder
from vlm2vec_service.engine.attention import Segments, attend


class Tape(TorchDispatchMode):
    """Records operations while it is on, and repeats them on the tensors that they had.

    As a graph does, it knows nothing but these tensors: what Python or the host decided while it
    was recorded stays decided. What asks the device for a value, which no graph can hold, fails.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, dict[str, Any], Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func is not torch.ops.aten._local_scalar_dense.default, "the host waits for a value"
        results = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, results))
        return results

    def replay(self) -> None:
        """Repeats what was recorded."""
        for func, args, kwargs, results in self.calls:
            again = func(*args, **kwargs)
            for old, new in zip(tree_leaves(results), tree_leaves(again), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


@torch.library.custom_op("vlm2vec_test::varlen", mutates_args=())
def varlen(
    query: Tensor, key: Tensor, value: Tensor, boundaries: Tensor, longest: int, scale: float
) -> Tensor:
    """Computes causal attention between the boundaries, as a GPU's kernel does, which leaves all
    other rows as they are in memory."""
    out = torch.full_like(query, torch.nan)
    ends = boundaries.tolist()
    for start, stop in itertools.pairwise(ends):
        assert stop - start <= longest
        q, k, v = (x[start:stop].transpose(0, 1)[None] for x in (query, key, value))
        own = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        out[start:stop] = own[0].transpose(0, 1)
    return out


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float, segments: Segments
) -> Tensor:
    if segments.fixed is None:
        return attend(query, key, value, scaling, segments)
    longest = max(segments.lengths)
    out: Tensor = varlen(query, key, value, segments.fixed, longest, scaling)
    return out


def _at(address: int, *shape: int) -> Tensor:
    """The float32 values of ``shape`` that lie at ``address``."""
    buffer = (ctypes.c_float * math.prod(shape)).from_address(address)
    return torch.frombuffer(buffer, dtype=torch.float32).view(shape)


def _shrink(
    x: Tensor,
    tensors: list[Tensor],
    table: Tensor,
    tiles: Tensor,
    rank: int,
    splits: int,
    block: int,
) -> Tensor:
    mixed = torch.full((splits, len(x), rank), torch.nan)
    for slot, first, stop in tiles.tolist():
        a, _, _, _, own = table[slot].tolist()
        if first < stop and a:
            rows = x[first:stop]
            mixed[:, first:stop, :own] = 0
            mixed[0, first:stop, :own] = rows @ _at(a, own, x.shape[1]).T
    return mixed


def _expand(
    y: Tensor, mixed: Tensor, tensors: list[Tensor], table: Tensor, tiles: Tensor, block: int
) -> None:
    for slot, first, stop in tiles.tolist():
        a, b, gain, shift, own = table[slot].tolist()
        if first < stop and a:
            rows, out = y[first:stop], y.shape[1]
            if gain:
                rows *= _at(gain, out)
            if shift:
                rows += _at(shift, out)
            rows += mixed[:, first:stop, :own].sum(0) @ _at(b, out, own).T


def _swiglu_expand(gate_up: Tensor, *rest: Any) -> Tensor:
    own = gate_up.clone()
    _expand(own, *rest)
    gate, up = own.chunk(2, dim=1)
    return F.silu(gate) * up


LOW_RANK = {"shrink": _shrink, "expand": _expand, "swiglu_expand": _swiglu_expand}
"""What the kernels of low-rank adapters do, in plain torch: Triton's interpreter takes minutes."""


@contextlib.contextmanager
def graphs_on_a_cpu() -> Iterator[None]:
    """Lets `DecoderGraphs` record and replay float32 on a CPU."""
    nothing = contextlib.nullcontext()
    stream = mock.MagicMock()
    library = torch.library.Library("vlm2vec", "IMPL")
    for name, function in LOW_RANK.items():
        library.impl(name, function, "CPU")
    try:
        with (
            mock.patch.object(decoder, "attend", _attend),
            mock.patch.multiple(
                torch.cuda,
                graph_pool_handle=lambda: None,
                Stream=lambda device: stream,
                current_stream=lambda device: stream,
                stream=lambda stream: nothing,
                CUDAGraph=Tape,
                graph=lambda tape, **options: tape,
            ),
        ):
            yield
    finally:
        library._destroy()
