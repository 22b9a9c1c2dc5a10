"""Kernels of the norms."""

import torch
import triton
import triton.language as tl
from torch import Tensor


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Adds ``delta`` to ``residual`` in place and returns the RMS norm of the sum."""
    return _launch(residual, delta, weight, None, eps)


def add_layer_norm(
    residual: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Adds ``delta`` to ``residual`` in place and returns the layer norm of the sum."""
    return _launch(residual, delta, weight, bias, eps)


def _launch(
    residual: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor | None, eps: float
) -> Tensor:
    rows, size = residual.shape
    normed = torch.empty(rows, size, dtype=residual.dtype, device=residual.device)
    if not rows:
        return normed
    block = triton.next_power_of_2(size)
    _add_norm[(rows,)](
        residual,
        residual if delta is None else delta,
        weight,
        weight if bias is None else bias,
        normed,
        residual.stride(0),
        0 if delta is None else delta.stride(0),
        size,
        eps,
        ADDS=delta is not None,
        CENTERS=bias is not None,
        BLOCK=block,
        num_warps=4 if block <= 2048 else 8,
    )
    return normed


@triton.jit
def _add_norm(
    residual,
    delta,
    weight,
    bias,
    normed,
    residual_stride,
    delta_stride,
    size,
    eps,
    ADDS: tl.constexpr,
    CENTERS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program does one row. With ``CENTERS`` it is a layer norm, else an RMS norm."""
    row = tl.program_id(0).to(tl.int64)
    at = tl.arange(0, BLOCK)
    inside = at < size
    own = residual + row * residual_stride + at
    x = tl.load(own, inside, other=0).to(tl.float32)
    if ADDS:
        x += tl.load(delta + row * delta_stride + at, inside, other=0).to(tl.float32)
        rounded = x.to(residual.dtype.element_ty)
        tl.store(own, rounded, inside)
        x = rounded.to(tl.float32)
    if CENTERS:
        x = tl.where(inside, x - tl.sum(x) / size, 0)
    y = x * tl.rsqrt(tl.sum(x * x) / size + eps)
    y *= tl.load(weight + at, inside, other=0).to(tl.float32)
    if CENTERS:
        y += tl.load(bias + at, inside, other=0).to(tl.float32)
    tl.store(normed + row * size + at, y.to(normed.dtype.element_ty), inside)
