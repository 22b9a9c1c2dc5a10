"""What the engine needs of a model, whichever it is."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.linear import Group, Rows
from vlm2vec_service.preprocess.prepared import Media


class Backbone(nn.Module, ABC):
    """A vision-language model without its output layer.

    Its modules carry the names of the original checkpoint, which are also those that adapters
    were trained on. ``inert`` holds ``(out, in)`` of linear layers that never reach a vector: an
    adapter may have tensors for them, they do nothing.
    """

    name: str
    """``model_type`` in ``config.json``."""
    vision_prefix: str
    """How the names of the vision tower's modules start."""
    inert: dict[str, tuple[int, int]]
    model: Any
    """The language model: ``embed_tokens``, ``layers`` and ``norm``."""

    @abstractmethod
    def rename(self, name: str) -> str | None:
        """The name here of a module or tensor of a checkpoint or adapter, of any generation of
        ``transformers``; None for a tensor that never reaches a vector."""

    @abstractmethod
    def known_as(self, name: str) -> Sequence[str]:
        """Every name that ``name`` has had; settings of adapters match any of them."""

    @abstractmethod
    def patches(self, media: Media) -> int:
        """Rows that ``media`` takes in the vision tower."""

    @abstractmethod
    def encode(self, media: Sequence[Media]) -> list[Tensor]:
        """The features of each, ``(tokens, hidden)``."""

    @abstractmethod
    def rotary(self, positions: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Cosines and sines, float32 ``(total, head_dim)``, for ``(3, total)`` positions of
        sequences of ``lengths``."""

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """``(total,)`` ids to ``(total, hidden)``; negative ids, which features replace, to any."""
        embeddings: Tensor = self.model.embed_tokens(token_ids.clamp(min=0))
        return embeddings

    def decode(
        self,
        hidden: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Segments,
        last: Tensor,
        rows: Rows,
        input_groups: Sequence[Group] = (),
    ) -> Tensor:
        """Runs the language model over packed ``(total, hidden)`` and pools.

        Returns the final-normed state of each input's last token, ``(inputs, hidden)``. Behind
        the last attention nothing else reaches it, so the last MLP and the norm run on those rows
        alone; ``input_groups`` are their adapters.
        """
        cos, sin = (part.to(hidden.dtype)[None] for part in rotary)
        options: dict[str, Any] = {
            "attention_mask": None,
            "position_embeddings": (cos, sin),
            "segments": segments,
        }
        hidden = hidden[None]
        *layers, final = self.model.layers
        for layer in layers:
            hidden = layer(hidden, **options)
        attended, _ = final.self_attn(final.input_layernorm(hidden), **options)
        pooled = (hidden + attended)[0, last]
        rows.groups = input_groups
        pooled = pooled + final.mlp(final.post_attention_layernorm(pooled))
        states: Tensor = self.model.norm(pooled)
        return states


def inverse_frequencies(theta: float, dim: int, device: torch.device) -> Tensor:
    """RoPE's ``theta ** -(2i / dim)``, float32 ``(dim / 2,)`` (arXiv:2104.09864)."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
