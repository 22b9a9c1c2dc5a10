"""What an adapter adds to the layers of one product, as one addition to the product."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from vlm2vec_service.engine.linear import AdaptedLinear, Product
from vlm2vec_service.engine.low_rank import LowRank


@torch.inference_mode()
def join(product: Product, exact: Mapping[str, LowRank]) -> LowRank:
    """Joins what ``exact`` adds to the layers of ``product``, in the dtype of its weight.

    The ranks lie behind each other: ``a`` is ``(sum of the ranks, in)``, and ``b``, ``(out, sum of
    the ranks)``, has zeros where a layer meets the rank of another. ``exact`` is by the name of the
    layer; a layer that is not there adds nothing.
    """
    layers = [(part, exact[part.name]) for part in product.parts if part.name in exact]
    weight = product.weight
    b = weight.new_zeros(product.out_features, sum(layer.rank for _, layer in layers))
    gain = shift = None
    if any(layer.gain is not None for _, layer in layers):
        gain = weight.new_ones(product.out_features)
        shift = None if product.bias is None else weight.new_zeros(product.out_features)
    rank = 0
    for part, layer in layers:
        columns = slice(part.start, part.start + part.out_features)
        b[columns, rank : rank + layer.rank] = layer.b
        if gain is not None and layer.gain is not None:
            gain[columns] = layer.gain
        if shift is not None and layer.shift is not None:
            shift[columns] = layer.shift
        rank += layer.rank
    a = torch.cat([layer.a for _, layer in layers]).to(weight.dtype)
    return LowRank(a, b, gain, shift)


def split(
    product: Product, exact: Mapping[str, LowRank], joined: LowRank
) -> Iterator[tuple[AdaptedLinear, LowRank]]:
    """Gives the layers of ``product`` that `join` joined, each with its views of ``joined``."""
    rank = 0
    for part in product.parts:
        if part.name not in exact:
            continue
        columns = slice(part.start, part.start + part.out_features)
        ranks = slice(rank, rank + exact[part.name].rank)
        rank = ranks.stop

        def view(tensor: Tensor | None, columns: slice = columns) -> Tensor | None:
            return None if tensor is None else tensor[columns]

        yield (
            part,
            LowRank(
                joined.a[ranks], joined.b[columns, ranks], view(joined.gain), view(joined.shift)
            ),
        )
