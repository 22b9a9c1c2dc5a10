"""A cache for the features of images, videos and audios, bounded in bytes."""

from collections import OrderedDict

from torch import Tensor

FeatureKey = tuple[bytes, bytes]
"""What features belong to: `Media.digest` and `Adapter.media_digest`. Adapters that leave the
towers alone, whose digest is empty, share features; others never do."""


class FeatureCache:
    """Keeps features of media; the least recently used leave first.

    ``hits`` and ``misses`` count the calls of ``get``. Only one thread at a time may use it, as
    the engine does, which runs one batch at a time.
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._features: OrderedDict[FeatureKey, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: FeatureKey) -> Tensor | None:
        """Returns the features ``(tokens, hidden)`` of ``key``, or None if they are not kept."""
        features = self._features.get(key)
        if features is None:
            self.misses += 1
            return None
        self.hits += 1
        self._features.move_to_end(key)
        return features

    def put(self, key: FeatureKey, features: Tensor) -> None:
        """Keeps a copy of ``features``, unless they alone are more than the cache may hold."""
        if features.nbytes > self.max_bytes or key in self._features:
            return
        # A slice would keep the whole batch's features alive.
        self._features[key] = features.clone()
        self.nbytes += features.nbytes
        while self.nbytes > self.max_bytes:
            _, oldest = self._features.popitem(last=False)
            self.nbytes -= oldest.nbytes
