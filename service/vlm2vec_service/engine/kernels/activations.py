"""Kernels of the activations."""

import triton
import triton.language as tl
from torch import Tensor

BLOCK = 1024
"""Values that one program does."""


def swiglu(gate_up: Tensor) -> Tensor:
    """Computes ``silu(gate) * up`` for ``(rows, 2 * size)``, gate first."""
    rows, size = len(gate_up), gate_up.shape[1] // 2
    product = gate_up.new_empty(rows, size)
    if rows:
        _swiglu[(rows, triton.cdiv(size, BLOCK))](
            gate_up, product, gate_up.stride(0), size, BLOCK=BLOCK, num_warps=4
        )
    return product


def quick_gelu(x: Tensor) -> None:
    """Computes ``x * sigmoid(1.702 x)`` in place, for ``(rows, size)``."""
    rows, size = x.shape
    if rows:
        _quick_gelu[(rows, triton.cdiv(size, BLOCK))](
            x, x.stride(0), size, BLOCK=BLOCK, num_warps=4
        )


@triton.jit
def _swiglu(gate_up, product, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    own = gate_up + row * stride + at
    gate = tl.load(own, inside, other=0).to(tl.float32)
    up = tl.load(own + size, inside, other=0).to(tl.float32)
    y = gate * tl.sigmoid(gate) * up
    tl.store(product + row * size + at, y.to(product.dtype.element_ty), inside)


@triton.jit
def _quick_gelu(x, stride, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = at < size
    own = x + row * stride + at
    value = tl.load(own, inside, other=0).to(tl.float32)
    tl.store(own, (value * tl.sigmoid(1.702 * value)).to(x.dtype.element_ty), inside)
