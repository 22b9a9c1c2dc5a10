"""A linear layer that several adapters share: the base product once, each row's adapter on top."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass(frozen=True)
class LowRank:
    """One adapter's part of one linear layer, ready to add.

    With DoRA's ``g = m / ‖W + s·BA‖`` (row norms; arXiv:2402.09353, eq. 5), or 1 without DoRA, the
    layer is ``y = g ⊙ (xWᵀ + s·(xAᵀ)Bᵀ) + b``. Held is what leaves least to do per token:

    ``a``: ``A``, ``(rank, in)``. ``b``: ``s·g ⊙ B``, ``(out, rank)``.
    ``gain``: ``g``, ``(out,)``, and ``shift``: ``(1 - g) ⊙ b``; None where they change nothing.
    """

    a: Tensor
    b: Tensor
    gain: Tensor | None = None
    shift: Tensor | None = None

    @property
    def tensors(self) -> list[Tensor]:
        """Those that there are."""
        every = (self.a, self.b, self.gain, self.shift)
        return [tensor for tensor in every if tensor is not None]

    @property
    def nbytes(self) -> int:
        """Bytes on the device."""
        return sum(tensor.nbytes for tensor in self.tensors)


@dataclass(frozen=True)
class Group:
    """Rows ``start`` to ``stop`` of what runs now, all of one adapter's ``layers``."""

    layers: dict[str, LowRank]
    start: int
    stop: int


@dataclass
class Rows:
    """Which rows belong to which adapter at this point of the forward pass.

    One object, shared by all layers of a model and set by the engine between stages; rows in no
    group get the base model.
    """

    groups: Sequence[Group] = field(default=())


class AdaptedLinear(nn.Module):
    """``nn.Linear`` plus, for each group of rows, that group's adapter."""

    def __init__(self, linear: nn.Linear, name: str, rows: Rows) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.name = name
        self.rows = rows

    @functools.cached_property
    def row_norms(self) -> Tensor:
        """``‖W‖`` by row, float32 ``(out,)``; DoRA needs it."""
        return torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """``(..., in)`` to ``(..., out)``; the leading dimensions, flattened, are the rows."""
        y = F.linear(x, self.weight, self.bias)
        if self.rows.groups:
            flat_x, flat_y = x.reshape(-1, self.in_features), y.view(-1, self.out_features)
            for group in self.rows.groups:
                low_rank = group.layers.get(self.name)
                if low_rank is not None:
                    _add(
                        low_rank, flat_x[group.start : group.stop], flat_y[group.start : group.stop]
                    )
        return y


def _add(low_rank: LowRank, x: Tensor, y: Tensor) -> None:
    """Turns the base product ``y``, ``(rows, out)``, into the adapter's, in place."""
    if low_rank.shift is not None and low_rank.gain is not None:
        torch.addcmul(low_rank.shift, y, low_rank.gain, out=y)
    elif low_rank.gain is not None:
        y.mul_(low_rank.gain)
    y.addmm_(F.linear(x, low_rank.a), low_rank.b.T)


def install(model: nn.Module, rows: Rows) -> dict[str, AdaptedLinear]:
    """Replaces every ``nn.Linear`` in ``model`` by an `AdaptedLinear` that owns its weight.

    Returns them by name.
    """
    installed = {}
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                name = f"{parent_name}.{child_name}".lstrip(".")
                installed[name] = AdaptedLinear(child, name, rows)
                setattr(parent, child_name, installed[name])
    return installed
