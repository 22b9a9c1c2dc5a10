"""Activations of the models' feed-forward layers."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.ops.low_rank import Addition, swiglu_with
from vlm2vec_service.engine.ops.registry import define, wants_gradient, wants_operator

ROWS = 64
"""Rows that a CPU does at once: what it needs meanwhile stays in its cache."""


def swiglu(gate_up: Tensor, addition: Addition | None = None) -> Tensor:
    """Computes ``silu(gate) * up`` for ``gate_up``, ``(rows, 2 * size)``, gate first.

    What adapters are still to add to ``gate_up`` is added first. Returns ``(rows, size)``.
    """
    if addition is not None:
        return swiglu_with(gate_up, addition)
    if wants_operator(gate_up):
        product: Tensor = _swiglu(gate_up)
        return product
    gate, up = gate_up.chunk(2, dim=1)
    if wants_gradient(gate_up):
        return F.silu(gate) * up
    return F.silu(gate).mul_(up)


def quick_gelu(x: Tensor) -> Tensor:
    """Computes ``x * sigmoid(1.702 x)`` in the memory of ``x``, ``(rows, size)``, and returns it.

    Where ``x`` wants a gradient it keeps its values, and the result has memory of its own.
    """
    if wants_operator(x):
        _quick_gelu(x)
        return x
    if wants_gradient(x):
        return x * torch.sigmoid(1.702 * x)
    for rows in x.split(ROWS):
        rows.mul_(torch.mul(rows, 1.702).sigmoid_())
    return x


_swiglu = define(
    "swiglu(Tensor gate_up) -> Tensor",
    "activations",
    lambda gate_up: gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2),
)
_quick_gelu = define("quick_gelu(Tensor(a!) x) -> ()", "activations", lambda x: None)
