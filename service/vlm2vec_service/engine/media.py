"""The images, videos and audios of a batch to features, each of them encoded once."""

import sys
from collections.abc import Sequence

from torch import Tensor

from vlm2vec_service.engine.adapter import Adapter
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.feature_cache import FeatureCache, FeatureKey
from vlm2vec_service.engine.packing import ChooseCopy, Item
from vlm2vec_service.engine.stage import Rows, Stage
from vlm2vec_service.engine.tower import RunBlocks
from vlm2vec_service.preprocess.prepared import Media

Missing = dict[FeatureKey, tuple[Media, Adapter | None]]
"""Media that have to be encoded, with the adapter of their tower if it has one."""


class MediaEncoder:
    """Runs the towers of ``backbone`` on what ``cache`` does not hold.

    ``runs`` run the blocks of its towers, in their order; ``rows`` is the object that the
    backbone's products look at. At most ``batch_patches`` rows go through the towers at once;
    media that have more go alone. ``choose_copy`` finds the merged copy of an adapter of a tower.
    """

    def __init__(
        self,
        backbone: Backbone,
        runs: Sequence[RunBlocks],
        rows: Rows,
        cache: FeatureCache,
        batch_patches: int,
        choose_copy: ChooseCopy,
    ) -> None:
        self.backbone = backbone
        self.runs = runs
        self.rows = rows
        self.cache = cache
        self.batch_patches = batch_patches
        self.choose_copy = choose_copy

    def features(self, items: Sequence[Item]) -> dict[FeatureKey, Tensor]:
        """Finds or computes the features ``(tokens, hidden)`` of all media in ``items``."""
        features: dict[FeatureKey, Tensor] = {}
        missing: Missing = {}
        for item in items:
            for media in item.prepared.media:
                key = feature_key(media, item.adapter)
                if key in features or key in missing:
                    continue
                cached = self.cache.get(key)
                if cached is None:
                    missing[key] = (media, item.adapter if key[1] else None)
                else:
                    features[key] = cached
        for keys in self._batches(missing):
            adapter = missing[keys[0]][1]
            # The number of rows changes inside the tower; all of them are this adapter's.
            every = sys.maxsize
            copy = self.choose_copy(adapter, every, True) if adapter else None
            groups = [adapter.group(0, every, copy)] if adapter else []
            device = self.backbone.model.embed_tokens.weight.device
            self.rows.stage = Stage(groups, device)
            encoded = self.backbone.encode([missing[key][0] for key in keys], self.runs)
            for key, states in zip(keys, encoded, strict=True):
                features[key] = states
                self.cache.put(key, states)
        return features

    def _batches(self, missing: Missing) -> list[list[FeatureKey]]:
        """Cuts ``missing`` by adapter, and by ``batch_patches``."""
        cut: list[list[FeatureKey]] = []
        used = 0
        for key in sorted(missing, key=lambda key: key[1]):
            patches = self.backbone.patches(missing[key][0])
            full = used + patches > self.batch_patches
            if not cut or full or cut[-1][-1][1] != key[1]:
                cut.append([])
                used = 0
            cut[-1].append(key)
            used += patches
        return cut


def feature_key(media: Media, adapter: Adapter | None) -> FeatureKey:
    """Makes the key of the features that ``adapter``, or the base model, gives ``media``."""
    return media.digest, adapter.media_digest if adapter else b""
