"""Compares two evaluations of the same queries: is a difference more than chance?"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm2vec_evaluation.errors import EvaluationError

RESAMPLES = 2000
CONFIDENCE = 0.95
SEED = 0
Each = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Difference:
    """How much higher a score is than another, and the interval that it lies in with a confidence
    of `CONFIDENCE`."""

    mean: float
    low: float
    high: float

    @property
    def certain(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0


def difference(pairs: Sequence[tuple[Each, Each]]) -> Difference:
    """Compares the scores of each query, float32 ``(queries,)``, before and after, of one data set
    or of several, each of which counts once.

    It is the paired bootstrap: queries are drawn with replacement, from each data set as many as it
    has, `RESAMPLES` times (Efron and Tibshirani, An Introduction to the Bootstrap, 1993).
    """
    random = np.random.default_rng(SEED)
    mean, drawn = 0.0, np.zeros(RESAMPLES)
    for before, after in pairs:
        change = after.astype(np.float64) - before
        mean += change.mean() / len(pairs)
        for start in range(0, RESAMPLES, 100):
            chosen = random.integers(0, len(change), (100, len(change)))
            drawn[start : start + 100] += change[chosen].mean(axis=1) / len(pairs)
    tail = (1 - CONFIDENCE) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Difference(mean, float(low), float(high))


@dataclass(frozen=True)
class Earlier:
    """Another evaluation, as ``--output`` wrote it: what it is of, and by data set the digest of
    the data and the score of each query."""

    name: str
    data: Mapping[str, str]
    each: Mapping[str, Each]

    @classmethod
    def read(cls, path: Path) -> "Earlier":
        """Reads a file that ``vlm2vec evaluate --output`` wrote. Raises `EvaluationError`."""
        try:
            return cls.parse(json.loads(path.read_text()))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise EvaluationError(
                f"{path}: no scores that vlm2vec evaluate --output wrote: {error!r}"
            ) from error

    @classmethod
    def parse(cls, values: Mapping[str, Mapping[str, Mapping[str, object]]]) -> "Earlier":
        """Makes one of the JSON that `report.to_json` made."""
        rows = values["data_sets"]
        return cls(
            f"{values.get('model')} version {values.get('version')}",
            {name: str(row["data"]) for name, row in rows.items()},
            {name: np.array(row["each"], np.float32) for name, row in rows.items()},
        )
