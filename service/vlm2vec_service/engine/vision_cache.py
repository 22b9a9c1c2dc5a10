"""Features of images and videos that were seen before, bounded in bytes."""

from collections import OrderedDict

from torch import Tensor

Key = tuple[bytes, bytes]
"""Digest of the resized pixels, and of the adapter where it touches the vision tower (else
empty): adapters that leave the tower alone share features, others never do."""


class VisionCache:
    """Least recently used features leave first. Not thread-safe: the engine runs one batch at a
    time."""

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self.hits = 0
        self.misses = 0
        self._features: OrderedDict[Key, Tensor] = OrderedDict()

    def __len__(self) -> int:
        return len(self._features)

    def get(self, key: Key) -> Tensor | None:
        """The features ``(tokens, hidden)``, or None."""
        features = self._features.get(key)
        if features is None:
            self.misses += 1
            return None
        self.hits += 1
        self._features.move_to_end(key)
        return features

    def put(self, key: Key, features: Tensor) -> None:
        """Keeps ``features``, unless they alone are more than the cache may hold."""
        if features.nbytes > self.max_bytes or key in self._features:
            return
        # A slice would keep the whole batch's features alive.
        self._features[key] = features.clone()
        self.nbytes += features.nbytes
        while self.nbytes > self.max_bytes:
            _, oldest = self._features.popitem(last=False)
            self.nbytes -= oldest.nbytes
