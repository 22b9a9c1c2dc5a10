"""The blocks of a tower of media in few, large operations."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from transformers.activations import QuickGELUActivation

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.attention import Segments, attend
from vlm2vec_service.engine.linear import Product, product_in

ALL = slice(None)
Norm = Callable[[Tensor, Tensor | None], Tensor]
"""Adds the second tensor, if there is one, to the first in place, and norms the sum."""


class RunBlocks(Protocol):
    """Runs some blocks of a tower."""

    def __call__(
        self,
        hidden: Tensor,
        segments: Segments,
        rotary: tuple[Tensor, Tensor] | None,
        blocks: slice = ALL,
    ) -> Tensor:
        """Runs ``blocks`` over packed states ``(patches, width)``, which it may overwrite.

        ``rotary`` is the cosines and sines of the rotary embedding, float32
        ``(patches, head dim)``, or None for a tower that has none.
        """


@dataclass(frozen=True)
class BlockNames:
    """How the modules of a tower are called: ``blocks`` in the model, all others in a block.

    ``qkv`` is one name, or those of the query's, the key's and the value's projection. ``heads``
    counts the heads of the attention. ``up`` is one name too, or those of a SwiGLU's gate and of
    what it gates; then the activation is SiLU.
    """

    blocks: str
    attention_norm: str
    qkv: Sequence[str]
    output: str
    mlp_norm: str
    up: Sequence[str]
    activation: str
    down: str
    heads: int


@dataclass(frozen=True)
class Block:
    """The modules of one block."""

    attention_norm: Norm
    qkv: Product
    output: Product
    mlp_norm: Norm
    up: Product
    activation: Callable[[Tensor], Tensor]
    down: Product


class Tower:
    """Runs the blocks of one tower in ``model``, whose linear layers are installed.

    It computes what the tower's own modules do, without gradients and in fewer passes over memory.
    Any tower fits whose blocks have a norm in front of their attention and of their MLP.
    """

    def __init__(self, model: nn.Module, names: BlockNames) -> None:
        blocks: Any = model.get_submodule(names.blocks)
        self.blocks = [_block(block, names) for block in blocks]
        self.heads = names.heads

    def run(
        self,
        hidden: Tensor,
        segments: Segments,
        rotary: tuple[Tensor, Tensor] | None,
        blocks: slice = ALL,
    ) -> Tensor:
        """Runs ``blocks`` over ``(patches, width)``; see `RunBlocks`."""
        if rotary is not None:
            # The two halves of each head turn by the same angles.
            cos, sin = (part[:, : part.shape[1] // 2].contiguous() for part in rotary)
            rotary = cos, sin
        delta = None
        for block in self.blocks[blocks]:
            normed = block.attention_norm(hidden, delta)
            delta = block.output(self._attend(block.qkv(normed), segments, rotary))
            normed = block.mlp_norm(hidden, delta)
            delta = block.down(block.activation(block.up(normed)))
        return hidden if delta is None else hidden.add_(delta)

    def _attend(
        self, qkv: Tensor, segments: Segments, rotary: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        if rotary is not None:
            ops.rotate(qkv, *rotary, 2 * self.heads)
        query, key, value = qkv.view(len(qkv), 3, self.heads, -1).unbind(1)
        return attend(query, key, value, None, segments).flatten(1)


def _norm(norm: Any) -> Norm:
    """Takes the place of ``norm``, which is a layer norm or an RMS norm."""
    if isinstance(norm, nn.LayerNorm):
        return lambda hidden, delta: ops.add_layer_norm(
            hidden, delta, norm.weight, norm.bias, norm.eps
        )
    return lambda hidden, delta: ops.add_rms_norm(hidden, delta, norm.weight, norm.variance_epsilon)


def _product(block: Any, names: Sequence[str]) -> Product:
    parent = block.get_submodule(names[0].rpartition(".")[0])
    return product_in(parent, *(name.rpartition(".")[2] for name in names))


def _block(block: Any, names: BlockNames) -> Block:
    def module(name: str) -> Any:
        return block.get_submodule(name)

    activation = module(names.activation)
    if isinstance(activation, QuickGELUActivation):
        activation = ops.quick_gelu
    return Block(
        attention_norm=_norm(module(names.attention_norm)),
        qkv=_product(block, names.qkv),
        output=module(names.output).product,
        mlp_norm=_norm(module(names.mlp_norm)),
        up=_product(block, names.up),
        activation=ops.swiglu if len(names.up) > 1 else activation,
        down=module(names.down).product,
    )
