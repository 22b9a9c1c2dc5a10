"""Attention over packed sequences: no token attends across the boundary of its sequence.

Importing this module registers the attention with ``transformers`` under the name `PACKED`. The
layout of the batch travels to it as the keyword argument ``segments``.
"""

import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface

from vlm2vec_service.engine.transfer import to_device

PACKED = "vlm2vec_packed"
CAUSAL_BLOCK, FULL_BLOCK, MAX_SCORES, SHORT = 256, 640, 2**21, 64
"""Sizes for a CPU: the queries of a block, causal or not, the scores of a piece (4 MB in bfloat16),
and the length below which the fused attention is faster. They were measured on two cores of an
EPYC with AVX-512."""
VARLEN_HAS_GQA = "enable_gqa" in inspect.signature(varlen_attn).parameters


@dataclass(frozen=True)
class Segments:
    """The boundaries of the sequences in a packed batch, whose ``lengths`` are in order.

    A token attends to its sequence up to itself if ``causal``, and to the whole of it if not. On
    a GPU, ``fixed`` may hold the `boundaries` of other sequences, none of them longer than the
    longest of ``lengths``, which may change from one run to the next. Where sequences differ in
    ``causal``, which is then False, ``parts`` are the neighbours that do not.
    """

    lengths: Sequence[int]
    causal: bool
    device: torch.device
    fixed: Tensor | None = None
    parts: Sequence["Segments"] = ()

    @classmethod
    def mixed(
        cls, lengths: Sequence[int], causal: Sequence[bool], device: torch.device
    ) -> "Segments":
        """Makes segments of sequences each of which is ``causal`` or not."""
        runs = itertools.groupby(zip(causal, lengths, strict=True), key=lambda pair: pair[0])
        parts = [cls([length for _, length in run], kind, device) for kind, run in runs]
        return parts[0] if len(parts) == 1 else cls(lengths, False, device, parts=parts)

    @cached_property
    def boundaries(self) -> Tensor:
        """Computes the start of each sequence and the end of the last, int32
        ``(len(lengths) + 1,)``."""
        if self.fixed is not None:
            return self.fixed
        ends = [0, *itertools.accumulate(self.lengths)]
        return to_device(np.array(ends, np.int32), self.device)

    @cached_property
    def runs(self) -> list[tuple[int, int, int]]:
        """Finds the runs of neighbours that are equally long: ``(start, count, length)`` each."""
        runs, start = [], 0
        for length, run in itertools.groupby(self.lengths):
            count = len(list(run))
            runs.append((start, count, length))
            start += count * length
        return runs


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    segments: Segments | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Computes attention, as ``transformers`` calls it.

    ``query`` is ``(batch, heads, tokens, dim)``; ``key`` and ``value`` may have fewer heads. With
    ``segments`` the batch is one row of packed sequences; without, it is an ordinary batch with
    full attention. Returns ``(batch, tokens, heads, dim)``, and None in place of the weights.
    """
    if segments is None:
        return _attend(query, key, value, scaling, causal=False).transpose(1, 2), None
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(q, k, v, scaling, segments)[None], None


def attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, segments: Segments
) -> Tensor:
    """Computes the attention of packed sequences, each within itself.

    ``query`` is ``(tokens, heads, dim)``; ``key`` and ``value`` may have fewer heads. ``scaling``
    None is ``dim ** -0.5``. Returns ``(tokens, heads, dim)``.
    """
    if segments.parts:
        rows = [sum(part.lengths) for part in segments.parts]
        tensors = zip(query.split(rows), key.split(rows), value.split(rows), strict=True)
        return torch.cat([
            attend(*each, scaling, part) for each, part in zip(tensors, segments.parts, strict=True)
        ])  # fmt: skip
    # The meta device, on which costs are counted, stands for a GPU.
    if query.device.type != "cpu" and query.dtype in (torch.bfloat16, torch.float16):
        return _varlen(query, key, value, scaling, segments)
    outputs = []
    for start, count, length in segments.runs:
        q, k, v = (
            x[start : start + count * length].unflatten(0, (count, length)).transpose(1, 2)
            for x in (query, key, value)
        )
        out = _attend(q, k, v, scaling, segments.causal)
        outputs.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(outputs)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, causal: bool
) -> Tensor:
    """Computes attention for a batch of equally long sequences, ``(batch, heads, length, dim)``."""
    on_cpu = query.device.type == "cpu"
    # The fused attention's backward pass is slower than matrix products at any length.
    blocked = query.shape[2] >= SHORT or query.requires_grad
    if on_cpu and query.dtype == torch.bfloat16 and blocked:
        return _blocked(query, key, value, scaling, causal)
    return F.scaled_dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )


def _blocked(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, causal: bool
) -> Tensor:
    """Computes attention as matrix products, in pieces whose scores stay in a CPU's cache.

    In bfloat16 a CPU multiplies matrices several times faster than its fused attention runs.
    Query heads that share a key head are rows of one product; a causal block of queries reads the
    keys up to its own end.
    """
    batch, heads, length, dim = query.shape
    shared = heads // key.shape[1]
    query = (query * (scaling or dim**-0.5)).unflatten(1, (-1, shared))
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    block = CAUSAL_BLOCK if causal else FULL_BLOCK
    at_once = max(1, MAX_SCORES // (heads * length * min(length, block)))
    for first in range(0, batch, at_once):
        part = slice(first, first + at_once)
        for start in range(0, length, block):
            stop = min(start + block, length)
            seen = stop if causal else length
            q = query[part, :, :, start:stop].flatten(2, 3)
            scores = q @ key[part, :, :seen].transpose(-1, -2)
            if causal:
                rows = scores.unflatten(2, (shared, stop - start))[..., start:seen]
                rows += torch.full((stop - start,) * 2, -torch.inf, dtype=q.dtype).triu(1)
            mixed = torch.softmax(scores, dim=-1) @ value[part, :, :seen]
            out[part, :, :, start:stop] = mixed.unflatten(2, (shared, stop - start))
    return out.flatten(1, 2)


def _varlen(
    query: Tensor, key: Tensor, value: Tensor, scaling: float | None, segments: Segments
) -> Tensor:
    """Computes attention for all sequences at once by a GPU's kernel, ``(tokens, heads, dim)``."""
    longest, boundaries = max(segments.lengths), segments.boundaries
    grouped = query.shape[1] != key.shape[1]
    if grouped and not VARLEN_HAS_GQA:
        # In torch 2.11 the kernel groups heads, and `varlen_attn` does not know.
        return torch.ops.aten._flash_attention_forward(
            query, key, value, boundaries, boundaries, longest, longest,
            0.0, segments.causal, False, scale=scaling,
        )[0]  # fmt: skip
    options: dict[str, Any] = {"enable_gqa": True} if grouped else {}
    out = varlen_attn(
        query, key, value, boundaries, boundaries, longest, longest, scale=scaling,
        window_size=(-1, 0) if segments.causal else (-1, -1), **options,
    )  # fmt: skip
    assert isinstance(out, Tensor)
    return out


AttentionInterface.register(PACKED, packed_attention)
