"""A linear layer that adapters share: one base product, and each row's own adapter on top."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm2vec_service.engine.low_rank import LowRank


@dataclass(frozen=True)
class Group:
    """Neighbouring rows of one adapter: from ``start`` up to, but without, ``stop``.

    ``layers`` holds what the adapter adds, by the name of the linear layer.
    """

    layers: dict[str, LowRank]
    start: int
    stop: int


@dataclass
class Rows:
    """Says which rows belong to which adapter at the present point of a forward pass.

    All layers of a model share one object, whose ``groups`` the engine sets between the stages of
    a batch. Rows in no group get the base model.
    """

    groups: Sequence[Group] = field(default=())


class AdaptedLinear(nn.Module):
    """An ``nn.Linear`` that adds to each group of rows what that group's adapter holds for it.

    ``name`` is the layer's name in the model, by which adapters know it.
    """

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
        """Computes ``‖W‖`` by row, float32 ``(out,)``, once; DoRA needs it."""
        return torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in)`` to ``(..., out)``; the leading dimensions, flattened, are the rows."""
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
    """Replaces every ``nn.Linear`` in ``model`` by an `AdaptedLinear` that has its weight.

    Returns the new layers by name. All of them look at ``rows``.
    """
    installed = {}
    for parent_name, parent in list(model.named_modules()):
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                name = f"{parent_name}.{child_name}".lstrip(".")
                installed[name] = AdaptedLinear(child, name, rows)
                setattr(parent, child_name, installed[name])
    return installed
