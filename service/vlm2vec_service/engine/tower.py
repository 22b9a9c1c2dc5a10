"""The blocks of a vision tower in few, large operations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.attention import Segments, attend
from vlm2vec_service.engine.linear import Product, product_in

RunBlocks: TypeAlias = Callable[[Tensor, Segments, tuple[Tensor, Tensor] | None], Tensor]
"""Runs the blocks of a vision tower over packed states ``(patches, width)``.

It may overwrite the states. The pair is the cosines and sines of the rotary embedding, float32
``(patches, head dim)``, or None for a tower that has none.
"""


@dataclass(frozen=True)
class BlockNames:
    """How the modules of a tower are called: ``blocks`` in the model, all others in a block.

    ``qkv`` is one name, or those of the query's, the key's and the value's projection. ``heads``
    counts the heads of the attention.
    """

    blocks: str
    attention_norm: str
    qkv: Sequence[str]
    output: str
    mlp_norm: str
    up: str
    activation: str
    down: str
    heads: int


@dataclass(frozen=True)
class Block:
    """The modules of one block."""

    attention_norm: nn.LayerNorm
    qkv: Product
    output: Product
    mlp_norm: nn.LayerNorm
    up: Product
    activation: Callable[[Tensor], Tensor]
    down: Product


class Tower:
    """Runs the blocks of the vision tower in ``model``, whose linear layers are installed.

    It computes what the tower's own modules do, without gradients and in fewer passes over memory.
    Any tower fits whose blocks have a layer norm in front of their attention and of their MLP.
    """

    def __init__(self, model: nn.Module, names: BlockNames) -> None:
        blocks: Any = model.get_submodule(names.blocks)
        self.blocks = [_block(block, names) for block in blocks]
        self.heads = names.heads

    def run(
        self, hidden: Tensor, segments: Segments, rotary: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        """Runs the blocks over ``(patches, width)``; see `RunBlocks`."""
        if rotary is not None:
            # The two halves of each head turn by the same angles.
            cos, sin = (part[:, : part.shape[1] // 2].contiguous() for part in rotary)
            rotary = cos, sin
        delta = None
        for block in self.blocks:
            normed = _add_norm(hidden, delta, block.attention_norm)
            delta = block.output(self._attend(block.qkv(normed), segments, rotary))
            normed = _add_norm(hidden, delta, block.mlp_norm)
            delta = block.down(block.activation(block.up(normed)))
        return hidden if delta is None else hidden.add_(delta)

    def _attend(
        self, qkv: Tensor, segments: Segments, rotary: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        if rotary is not None:
            ops.rotate(qkv, *rotary, 2 * self.heads)
        query, key, value = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        return attend(query, key, value, None, segments).flatten(1)


def _add_norm(hidden: Tensor, delta: Tensor | None, norm: nn.LayerNorm) -> Tensor:
    return ops.add_layer_norm(hidden, delta, norm.weight, norm.bias, norm.eps)


def _block(block: Any, names: BlockNames) -> Block:
    def module(name: str) -> Any:
        return block.get_submodule(name)

    first = names.qkv[0].rpartition(".")[0]
    activation = module(names.activation)
    return Block(
        attention_norm=module(names.attention_norm),
        qkv=product_in(module(first), *(name.rpartition(".")[2] for name in names.qkv)),
        output=module(names.output).product,
        mlp_norm=module(names.mlp_norm),
        up=module(names.up).product,
        activation=ops.quick_gelu if isinstance(activation, QuickGELUActivation) else activation,
        down=module(names.down).product,
    )
