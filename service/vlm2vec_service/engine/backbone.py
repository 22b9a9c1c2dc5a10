"""What the engine needs of a model, whichever family it is of."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.tower import BlockNames, RunBlocks
from vlm2vec_service.preprocess.prepared import Media


class Backbone(nn.Module, ABC):
    """A language model that reads media, without its output layer.

    Its modules carry the names of the original checkpoint, which are also those that adapters
    were trained on. A subclass is made from the contents of ``config.json`` and
    ``preprocessor_config.json``, on the meta device: it may not compute with its weights yet.
    """

    name: str
    """The ``model_type`` in ``config.json``, which is the key of the family's row in the table."""
    media_prefixes: tuple[str, ...]
    """The starts of the names of all modules that compute features of media."""
    inert: dict[str, tuple[int, int]]
    """The ``(out, in)`` of linear layers that never reach a vector, by name. An adapter may have
    tensors for them, which do nothing."""
    towers: tuple[BlockNames, ...] = ()
    """How the blocks of each tower of media are called."""
    plain_length: int = sys.maxsize
    """The longest sequence for which `rotary` does the same as for any shorter."""
    deep_layers: int = 0
    """The first layers of the language model that features are added behind, beside those that
    enter it: media have that many features more (DeepStack, arXiv:2406.04334)."""
    tied: bool = False
    """Whether the weights of the output layer ``lm_head`` are the token embeddings."""
    model: Any
    """The language model. `decode` and `Decoder` take it apart: it has ``embed_tokens``, ``layers``
    (each with ``self_attn``, ``mlp``, ``input_layernorm`` and ``post_attention_layernorm``) and
    ``norm``."""

    @abstractmethod
    def rename(self, name: str) -> str | None:
        """Finds the name that a module or tensor of a checkpoint or an adapter has here.

        ``name`` may be of any version of ``transformers``. Returns None for a tensor that never
        reaches a vector.
        """

    @abstractmethod
    def known_as(self, name: str) -> Sequence[str | None]:
        """Lists the names that the module ``name`` has had in versions of ``transformers``.

        There is one for each generation of names, the oldest first, for every module of a family,
        or None where adapters are also trained on a part of the model that does not have it: the
        settings of an adapter are meant in one of the generations.
        """

    @abstractmethod
    def patches(self, media: Media) -> int:
        """Counts the rows that ``media`` takes in its tower."""

    @abstractmethod
    def encode(self, media: Sequence[Media], runs: Sequence[RunBlocks] = ()) -> list[Tensor]:
        """Computes the features of each of ``media``, in order:
        ``(tokens, (1 + deep_layers) * hidden)``, what enters the language model first.

        ``runs``, one for each of `towers`, take the place of the towers' own blocks.
        """

    @abstractmethod
    def rotary(self, positions: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Computes the cosines and sines of the rotary embedding, float32 ``(total, head_dim)``.

        ``positions`` is ``(3, total)``; ``lengths`` are those of the packed sequences.
        """

    def embed_tokens(self, token_ids: Tensor) -> Tensor:
        """Looks up the embeddings ``(total, hidden)`` of ids ``(total,)``.

        A negative id stands for media and gets any embedding; features replace it.
        """
        embeddings: Tensor = self.model.embed_tokens(token_ids.clamp(min=0))
        return embeddings

    def entering(self, hidden: Tensor, rows: Tensor, features: Tensor | None) -> Tensor:
        """Puts ``features``, as `encode` gives them, into the ``rows`` of the embeddings
        ``hidden``, ``(total, hidden)``.

        Returns ``(1 + deep_layers, total, hidden)``: the states that enter the language model, and
        what is added behind each of its first layers; without features the states alone.
        """
        if features is None:
            return hidden[None]
        first, *deeper = features.to(hidden.dtype).split(hidden.shape[1], dim=1)
        states = [hidden.index_copy(0, rows, first)]
        states += [torch.zeros_like(hidden).index_copy(0, rows, part) for part in deeper]
        return torch.stack(states) if deeper else states[0][None]

    def decode(
        self,
        entering: Tensor,
        rotary: tuple[Tensor, Tensor],
        segments: Segments,
        pooled: Tensor,
    ) -> Tensor:
        """Runs the language model over packed states, which are as `entering` gives them.

        Returns the states of the tokens ``pooled`` behind the final norm, ``(pooled, hidden)``.
        Behind the last attention no other row reaches those, so the last MLP and the norm run on
        those rows alone. These are the modules of ``transformers``, which training needs; without
        gradients `Decoder` computes the same, faster.
        """
        cos, sin = (part.to(entering.dtype)[None] for part in rotary)
        options: dict[str, Any] = {
            "attention_mask": None,
            "position_embeddings": (cos, sin),
            "segments": segments,
        }
        hidden, *deeper = entering[:, None]
        *layers, final = self.model.layers
        for index, layer in enumerate(layers):
            hidden = layer(hidden, **options)
            if index < len(deeper):
                hidden = hidden + deeper[index]
        attended, _ = final.self_attn(final.input_layernorm(hidden), **options)
        kept = (hidden + attended)[0, pooled]
        kept = kept + final.mlp(final.post_attention_layernorm(kept))
        states: Tensor = self.model.norm(kept)
        return states


def inverse_frequencies(theta: float, dim: int, device: torch.device) -> Tensor:
    """Computes RoPE's ``theta ** -(2i / dim)``, float32 ``(dim / 2,)`` (arXiv:2104.09864)."""
    return 1.0 / theta ** (torch.arange(0, dim, 2, dtype=torch.float32, device=device) / dim)
