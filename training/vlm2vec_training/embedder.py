"""Computes vectors of prepared inputs with gradients, by the service's backbone.

They are the engine's vectors: batches are packed by its own `pack` and run through the same methods
of the backbone. Only what serves inference (adapter bank, inference mode) is left out.
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.packing import Item, PackedBatch, pack
from vlm2vec_service.preprocess.prepared import Media, Prepared

Features = Mapping[bytes, Tensor]
"""Features of media, as `Backbone.encode` gives them, by `Media.digest`."""


class Embedder(nn.Module):
    """A module from prepared inputs to L2-normalised vectors, around ``backbone``.

    ``autocast`` is the dtype of its matrix products, or None for the parameters' own. Where the
    towers of media have nothing to train, no gradient is kept for it.
    """

    def __init__(self, backbone: Backbone, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        self.backbone = backbone
        self.autocast = autocast

    @property
    def device(self) -> torch.device:
        """The device that holds the parameters."""
        return next(self.backbone.parameters()).device

    def forward(self, inputs: Sequence[Prepared], features: Features | None = None) -> Tensor:
        """Computes the vectors ``(len(inputs), dim)`` in order, float32 or wider.

        ``features`` may hold those of media that were encoded before; the rest are encoded here,
        each once.
        """
        batch = pack([Item(item, None) for item in inputs], self.device)
        known = dict(features or {})
        missing = {
            media.digest: media
            for item in inputs
            for media in item.media
            if media.digest not in known
        }
        known.update(self.encode(list(missing.values())))
        with self._precision():
            entering = self._entering(batch, known)
            rotary = self.backbone.rotary(batch.positions, batch.lengths)
            states = self.backbone.decode(entering, rotary, batch.segments, batch.pooled)
        wide = torch.promote_types(states.dtype, torch.float32)
        vectors = F.normalize(batch.pool(states.to(wide)), dim=1)
        places = torch.tensor(batch.order, device=self.device).argsort()
        return vectors[places]

    def encode(self, media: Sequence[Media]) -> dict[bytes, Tensor]:
        """Computes the features of ``media``, which are all different."""
        if not media:
            return {}
        trains = any(
            parameter.requires_grad
            for name, parameter in self.backbone.named_parameters()
            if name.startswith(self.backbone.media_prefixes)
        )
        with self._precision(), nullcontext() if trains else torch.no_grad():
            encoded = self.backbone.encode(media)
        return dict(zip((item.digest for item in media), encoded, strict=True))

    def _precision(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, self.autocast or torch.bfloat16, enabled=self.autocast is not None
        )

    def _entering(self, batch: PackedBatch, features: Features) -> Tensor:
        """Joins token embeddings and, in their places, features, as `Backbone.entering` does."""
        hidden = self.backbone.embed_tokens(batch.token_ids)
        hidden = hidden.to(self.autocast or hidden.dtype)
        found = [features[media.digest] for item in batch.items for media in item.prepared.media]
        return self.backbone.entering(hidden, batch.media_rows, torch.cat(found) if found else None)
