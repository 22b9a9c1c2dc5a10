"""Matrix products that adapters share: those of the linear layers that read the same input."""

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.stage import Rows

JOINED = (("q_proj", "k_proj", "v_proj"), ("q", "k", "v"), ("gate_proj", "up_proj"))
"""The names of neighbouring layers that read the same input, in all families."""


class AdaptedLinear(nn.Module):
    """An ``nn.Linear`` that adds to each group of rows what that group's adapter holds for it.

    ``name`` is the layer's name in the model, by which adapters know it; ``product`` is the matrix
    product that it is a part of, and ``start`` the first of its columns there.
    """

    def __init__(self, linear: nn.Linear, name: str) -> None:
        super().__init__()
        self.weight = linear.weight
        self.bias = linear.bias
        self.in_features = linear.in_features
        self.out_features = linear.out_features
        self.name = name
        self.product: Product
        self.start = 0

    @functools.cached_property
    def row_norms(self) -> Tensor:
        """Computes ``‖W‖`` by row, float32 ``(out,)``, once; DoRA needs it."""
        return torch.linalg.vector_norm(self.weight, dim=1, dtype=torch.float32)

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(..., in)`` to ``(..., out)``; the leading dimensions, flattened, are the rows."""
        return self.product(x)[..., self.start : self.start + self.out_features]


class Product:
    """The linear layers ``parts``, which read the same input, as one matrix product.

    Their outputs lie behind each other. ``weight`` is ``(out, in)`` and ``bias`` ``(out,)``, with
    zeros for a part that has none, or None where no part has one; those of the parts become views
    of them. ``index`` is the product's place among those of the model. All look at ``rows``.
    """

    def __init__(self, parts: Sequence[AdaptedLinear], index: int, rows: Rows) -> None:
        self.parts = tuple(parts)
        self.index = index
        self.rows = rows
        self.name = "+".join([parts[0].name, *(part.name.rpartition(".")[2] for part in parts[1:])])
        self.weight = parts[0].weight
        self.bias: nn.Parameter | None = parts[0].bias
        self.in_features = parts[0].in_features
        self.out_features = sum(part.out_features for part in parts)
        start = 0
        if len(parts) > 1:
            self.weight = _joined([part.weight for part in parts])
            self.bias = _joined_biases(parts)
        for part in parts:
            part.product, part.start = self, start
            start += part.out_features
            if len(parts) > 1:
                part.weight = _frozen(self.weight[part.start : start])
                if self.bias is not None and part.bias is not None:
                    part.bias = _frozen(self.bias[part.start : start])

    def __call__(self, x: Tensor) -> Tensor:
        """Maps ``(..., in)`` to ``(..., out)``; the leading dimensions, flattened, are the rows."""
        y, addition = self.unadded(x.reshape(-1, self.in_features))
        if addition is not None:
            ops.add(y, addition)
        return y.view(*x.shape[:-1], self.out_features)

    def unadded(self, x: Tensor) -> tuple[Tensor, ops.Addition | None]:
        """Maps ``(rows, in)`` to ``(rows, out)``, to which the addition is still to be added, if
        there is one."""
        stage = self.rows.stage
        y = self._multiply_runs(x) if stage.runs else F.linear(x, self.weight, self.bias)
        return y, stage.addition(self.name, self.index, y, x)

    def _multiply_runs(self, x: Tensor) -> Tensor:
        """Multiplies each run of rows by its own weight."""
        y = x.new_empty(len(x), self.out_features)
        for run in self.rows.stage.runs:
            rows, out = x[run.start : run.stop], y[run.start : run.stop]
            if not len(rows):
                continue
            weight = self.weight if run.merged is None else run.merged.get(self.name, self.weight)
            if self.bias is None:
                torch.mm(rows, weight.T, out=out)
            else:
                torch.addmm(self.bias, rows, weight.T, out=out)
        return y


def install(model: nn.Module, rows: Rows) -> dict[str, AdaptedLinear]:
    """Replaces every ``nn.Linear`` in ``model`` by an `AdaptedLinear` that has its weight, and
    joins neighbours that read the same input to one product.

    Returns the new layers by name. All of them look at ``rows``.
    """
    installed: dict[str, AdaptedLinear] = {}
    count = 0
    for parent_name, parent in list(model.named_modules()):
        mine: dict[str, AdaptedLinear] = {}
        for child_name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                name = f"{parent_name}.{child_name}".lstrip(".")
                mine[child_name] = installed[name] = AdaptedLinear(child, name)
                setattr(parent, child_name, mine[child_name])
        for parts in _neighbours(mine):
            Product(parts, count, rows)
            count += 1
    return installed


def products_of(linears: Mapping[str, AdaptedLinear]) -> list[Product]:
    """Lists the products of ``linears``, in the order of their indices."""
    return sorted({linear.product for linear in linears.values()}, key=lambda each: each.index)


def product_in(module: Any, *names: str, joined: str = "") -> Product:
    """Finds the product of the linear layers ``names`` of ``module``, or of the one layer that
    some families have in their place, called ``joined``."""
    layers = [getattr(module, joined)] if hasattr(module, joined) else []
    layers = layers or [getattr(module, name) for name in names]
    product: Product = layers[0].product
    assert product.parts == tuple(layers), f"{product.name} is not the product of {names}"
    return product


def _neighbours(layers: dict[str, AdaptedLinear]) -> list[list[AdaptedLinear]]:
    """Sorts the linear layers of one module into products."""
    groups = []
    for names in JOINED:
        group = [layers[name] for name in names if name in layers]
        if len(group) == len(names):
            groups.append(group)
    joined = {id(layer) for group in groups for layer in group}
    return groups + [[layer] for layer in layers.values() if id(layer) not in joined]


def _joined(tensors: Sequence[Tensor]) -> nn.Parameter:
    return _frozen(torch.cat([tensor.detach() for tensor in tensors]))


def _joined_biases(parts: Sequence[AdaptedLinear]) -> nn.Parameter | None:
    if all(part.bias is None for part in parts):
        return None
    none = parts[0].weight.new_zeros
    return _joined([
        none(part.out_features) if part.bias is None else part.bias for part in parts
    ])  # fmt: skip


def _frozen(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor.detach(), requires_grad=False)
