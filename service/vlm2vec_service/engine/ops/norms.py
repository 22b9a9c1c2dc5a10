"""Norms that add to the residual stream first."""

from torch import Tensor
from torch.nn import functional as F


def add_rms_norm(residual: Tensor, delta: Tensor | None, weight: Tensor, eps: float) -> Tensor:
    """Adds ``delta`` to ``residual``, both ``(rows, size)``, in place; returns the sum's RMS norm.

    The norm is that of the rounded sum, times ``weight``, ``(size,)``.
    """
    if delta is not None:
        residual.add_(delta)
    return F.rms_norm(residual, weight.shape, weight, eps)


def add_layer_norm(
    residual: Tensor, delta: Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Adds ``delta`` to ``residual``, both ``(rows, size)``, in place; returns its layer norm.

    The norm is that of the rounded sum, times ``weight`` plus ``bias``, both ``(size,)``.
    """
    if delta is not None:
        residual.add_(delta)
    return F.layer_norm(residual, weight.shape, weight, bias, eps)
