"""The kernel of the rotary position embedding."""

import triton
import triton.language as tl
from torch import Tensor

HEADS = 16
"""Heads that one program does."""


def rotate(x: Tensor, cos: Tensor, sin: Tensor, heads: int) -> None:
    """Rotates the first ``heads`` heads of each row of ``x`` in place."""
    rows, half = cos.shape
    if rows:
        _rotate[(rows, triton.cdiv(heads, HEADS))](
            x,
            cos.contiguous(),
            sin.contiguous(),
            x.stride(0),
            heads,
            HALF=half,
            HEADS=HEADS,
            BLOCK=triton.next_power_of_2(half),
            num_warps=4,
        )


@triton.jit
def _rotate(
    x,
    cos,
    sin,
    x_stride,
    heads,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program does ``HEADS`` heads of one row, whose halves have ``HALF`` columns each."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)[:, None]
    at = tl.arange(0, BLOCK)[None, :]
    inside = at < HALF
    c = tl.load(cos + row * HALF + at, inside, other=0)
    s = tl.load(sin + row * HALF + at, inside, other=0)
    inside = inside & (head < heads)
    first = x + row * x_stride + head * (2 * HALF) + at
    second = first + HALF
    a = tl.load(first, inside, other=0).to(tl.float32)
    b = tl.load(second, inside, other=0).to(tl.float32)
    tl.store(first, (a * c - b * s).to(x.dtype.element_ty), inside)
    tl.store(second, (b * c + a * s).to(x.dtype.element_ty), inside)
