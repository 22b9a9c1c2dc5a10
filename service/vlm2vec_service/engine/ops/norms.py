"""Norms that add to the residual stream first."""

import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.ops.registry import define, wants_gradient, wants_operator

ROWS = 256
"""Rows that a CPU does at once: what is in float32 meanwhile stays in its cache."""


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Adds ``delta`` to ``residual``, both ``(rows, size)``, in place; returns the sum's RMS norm.

    The norm is that of the rounded sum, times ``weight``, ``(size,)``.
    """
    if wants_operator(residual, delta, weight):
        normed: Tensor = _add_rms_norm(residual, delta, weight, eps)
        return normed
    if wants_gradient(residual, delta, weight):
        return F.rms_norm(_add(residual, delta), weight.shape, weight, eps)
    normed = torch.empty_like(residual)
    for start in range(0, len(residual), ROWS):
        rows = slice(start, start + ROWS)
        wide = _add(residual[rows], None if delta is None else delta[rows]).float()
        norm = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
        scale = norm.square_().div_(wide.shape[1]).add_(eps).rsqrt_()
        torch.mul(wide * scale, weight, out=normed[rows])
    return normed


def add_layer_norm(
    residual: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Adds ``delta`` to ``residual``, both ``(rows, size)``, in place; returns its layer norm.

    The norm is that of the rounded sum, times ``weight`` plus ``bias``, both ``(size,)``.
    """
    if wants_operator(residual, delta, weight, bias):
        normed: Tensor = _add_layer_norm(residual, delta, weight, bias, eps)
        return normed
    return F.layer_norm(_add(residual, delta), weight.shape, weight, bias, eps)


def _add(residual: Tensor, delta: Tensor | None) -> Tensor:
    return residual if delta is None else residual.add_(delta)


_add_rms_norm = define(
    "add_rms_norm(Tensor(a!) residual, Tensor? delta, Tensor weight, float eps) -> Tensor",
    "norms",
    lambda residual, delta, weight, eps: torch.empty_like(residual),
)
_add_layer_norm = define(
    "add_layer_norm(Tensor(a!) residual, Tensor? delta, Tensor weight, Tensor bias, float eps)"
    " -> Tensor",
    "norms",
    lambda residual, delta, weight, bias, eps: torch.empty_like(residual),
)
