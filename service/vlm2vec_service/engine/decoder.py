"""The layers of the language model in few, large operations."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vlm2vec_service.engine import ops
from vlm2vec_service.engine.attention import Segments, attend
from vlm2vec_service.engine.linear import Product, product_in
from vlm2vec_service.engine.stage import Rows, Stage
from vlm2vec_service.errors import CheckpointError

SILU = ("silu", "swish")
"""The names that ``transformers`` has for the activation of a SwiGLU."""


@dataclass(frozen=True)
class Layer:
    """The products and the norms of a decoder layer; ``eps`` is that of all norms.

    ``head_norm`` has a row for each head of the queries and keys, ``(heads, dim)``, or is None in a
    family that does not norm them.
    """

    input_norm: Tensor
    qkv: Product
    head_norm: Tensor | None
    output: Product
    mlp_norm: Tensor
    gate_up: Product
    down: Product
    eps: float


class Decoder:
    """Runs the language model ``model``, whose linear layers are installed, for vectors alone.

    It computes what `Backbone.decode` does, without gradients and in fewer passes over memory:
    projections of the same input are one product, and what lies between two products is one
    operation. Any decoder fits that has RMS norms in front of its attention and of a SwiGLU MLP.
    Raises `CheckpointError` for another activation.
    """

    def __init__(self, model: Any, rows: Rows) -> None:
        if model.config.hidden_act not in SILU:
            raise CheckpointError(
                f"config.json: hidden_act {model.config.hidden_act!r} is not silu"
            )
        self.rows = rows
        self.layers = [_layer(layer, model.config) for layer in model.layers]
        self.norm, self.eps = model.norm.weight, model.norm.variance_epsilon
        attention = model.layers[0].self_attn
        self.head_dim: int = attention.head_dim
        self.heads: int = model.config.num_attention_heads
        self.key_heads: int = model.config.num_key_value_heads
        self.scaling: float = attention.scaling

    def run(
        self,
        entering: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Segments,
        pooled: Tensor,
        pooled_stage: Stage,
    ) -> Tensor:
        """Runs the layers over packed states, which it overwrites.

        ``entering`` is ``(1 + deep_layers, total, hidden)``, as `Backbone.entering` gives it, and
        ``rotary`` as `Backbone.rotary` does. Returns the states of the tokens ``pooled`` behind the
        final norm, ``(pooled, hidden)``. No other row reaches those behind the last attention, so
        what comes after runs on those rows alone, with the adapters of ``pooled_stage``.
        """
        # The two halves of each head turn by the same angles.
        cos, sin = (part[:, : self.head_dim // 2].contiguous() for part in rotary)
        final = len(self.layers) - 1
        hidden, *deeper = entering
        delta = None
        for index, layer in enumerate(self.layers):
            normed = ops.add_rms_norm(hidden, delta, layer.input_norm, layer.eps)
            attended = self._attend(layer, layer.qkv(normed), cos, sin, segments)
            if index == final:
                attended, hidden = attended[pooled], hidden[pooled]
                self.rows.stage = pooled_stage
            delta = layer.output(attended)
            normed = ops.add_rms_norm(hidden, delta, layer.mlp_norm, layer.eps)
            gate_up, addition = layer.gate_up.unadded(normed)
            delta = layer.down(ops.swiglu(gate_up, addition))
            if index < len(deeper):
                hidden.add_(deeper[index])
        return ops.add_rms_norm(hidden, delta, self.norm, self.eps)

    def _attend(
        self, layer: Layer, qkv: Tensor, cos: Tensor, sin: Tensor, segments: Segments
    ) -> Tensor:
        """Turns the joined projections ``(total, (heads + 2 * key heads) * dim)``, which it
        overwrites, into ``(total, heads * dim)``."""
        heads, key_heads = self.heads, self.key_heads
        ops.rotate(qkv, cos, sin, heads + key_heads, layer.head_norm, layer.eps)
        parts = qkv.view(len(qkv), -1, self.head_dim)
        query, key, value = parts.split((heads, key_heads, key_heads), dim=1)
        return attend(query, key, value, self.scaling, segments).flatten(1)


def _layer(layer: Any, config: Any) -> Layer:
    attention, mlp = layer.self_attn, layer.mlp
    head_norm = None
    if hasattr(attention, "q_norm"):
        counts = config.num_attention_heads, config.num_key_value_heads
        norms = attention.q_norm.weight, attention.k_norm.weight
        head_norm = torch.cat([norm.expand(n, -1) for norm, n in zip(norms, counts, strict=True)])
    return Layer(
        input_norm=layer.input_layernorm.weight,
        qkv=product_in(attention, "q_proj", "k_proj", "v_proj", joined="qkv_proj"),
        head_norm=head_norm,
        output=product_in(attention, "o_proj"),
        mlp_norm=layer.post_attention_layernorm.weight,
        gate_up=product_in(mlp, "gate_proj", "up_proj", joined="gate_up_proj"),
        down=product_in(mlp, "down_proj"),
        eps=layer.input_layernorm.variance_epsilon,
    )
