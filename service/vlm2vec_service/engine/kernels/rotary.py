"""The kernel of the rotary position embedding and of the norms of heads before it."""

import triton
import triton.language as tl
from torch import Tensor

HEADS = 16
"""Heads that one program does."""


def rotate(
    x: Tensor, cos: Tensor, sin: Tensor, heads: int, norm: Tensor | None = None, eps: float = 0.0
) -> None:
    """Rotates the first ``heads`` heads of each row of ``x`` in place, normed with ``norm``."""
    rows, half = cos.shape
    if rows:
        _rotate[(rows, triton.cdiv(heads, HEADS))](
            x,
            cos.contiguous(),
            sin.contiguous(),
            x if norm is None else norm,
            x.stride(0),
            heads,
            eps,
            NORMS=norm is not None,
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
    norm,
    x_stride,
    heads,
    eps,
    NORMS: tl.constexpr,
    HALF: tl.constexpr,
    HEADS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One program does ``HEADS`` heads of one row, whose halves have ``HALF`` columns each.

    With ``NORMS`` each head is first divided by its root mean square, and multiplied by its row of
    ``norm``.
    """
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
    if NORMS:
        squares = tl.sum(a * a, 1) + tl.sum(b * b, 1)
        scale = tl.rsqrt(squares / (2 * HALF) + eps)[:, None]
        weight = norm + head * (2 * HALF) + at
        a *= scale * tl.load(weight, inside, other=0).to(tl.float32)
        b *= scale * tl.load(weight + HALF, inside, other=0).to(tl.float32)
    tl.store(first, (a * c - b * s).to(x.dtype.element_ty), inside)
    tl.store(second, (b * c + a * s).to(x.dtype.element_ty), inside)
