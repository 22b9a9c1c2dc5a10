"""An adapter that a worker is to hold, now and after every restart."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vlm2vec_service.errors import AdapterError
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult

UNIT_TOLERANCE = 0.02
"""How far the length of a normalised vector may be from 1, in bfloat16 too."""


@dataclass(frozen=True)
class WantedAdapter:
    """An adapter for a worker to load: ``find`` gives its folder, verified, each time it is asked;
    ``probe`` is an input that the adapter has to answer before it answers any other."""

    find: Callable[[], Awaitable[Path]]
    probe: BatchInput

    def check(self, result: BatchResult) -> None:
        """Judges the worker's answer to the probe, which is normalised. Raises `AdapterError` for a
        vector that is not finite, or not of length 1."""
        (vector,) = result.vectors
        if not np.isfinite(vector).all():
            raise AdapterError("its vectors are not finite numbers")
        length = float(np.linalg.norm(vector))
        if abs(length - 1) > UNIT_TOLERANCE:
            raise AdapterError(f"its vectors cannot be normalised: one has length {length:.3g}")
