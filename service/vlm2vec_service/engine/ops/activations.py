"""Activations of the models' feed-forward layers."""

import torch
from torch import Tensor
from torch.nn import functional as F


def swiglu(gate_up: Tensor) -> Tensor:
    """Computes ``silu(gate) * up`` for ``gate_up``, ``(rows, 2 * size)``, gate first.

    Returns ``(rows, size)``.
    """
    gate, up = gate_up.chunk(2, dim=-1)
    return F.silu(gate) * up


def quick_gelu(x: Tensor) -> Tensor:
    """Computes ``x * sigmoid(1.702 x)``, in the shape of ``x``."""
    return x * torch.sigmoid(1.702 * x)
