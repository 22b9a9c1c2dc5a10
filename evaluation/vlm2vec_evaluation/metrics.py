"""Computes scores of ranks, which are hit@k, MRR and nDCG@5, and their averages.

A rank is that of the right candidate, 1 where it is the best. With one right candidate,
nDCG@5 is ``1 / log2(1 + rank)`` up to rank 5 and 0 beyond, for linear and exponential gain alike.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from vlm2vec_evaluation.suite import META_TASKS, OVERALL, SPLITS


@dataclass(frozen=True)
class Scores:
    """The scores of a data set or their averages, each from 0 to 1.

    ``chance`` is the hit@1 of a blind choice.
    """

    hit1: float
    hit5: float
    hit10: float
    mrr: float
    ndcg5: float
    chance: float


@dataclass(frozen=True)
class DataSetScores:
    """The scores of one data set, and what identifies the data that they are of.

    ``data`` is a digest, in 32 hexadecimal digits, of every query and candidate that was embedded.
    """

    name: str
    meta_task: str
    split: str
    queries: int
    data: str
    scores: Scores


def rank(
    query: npt.NDArray[np.float32], candidates: npt.NDArray[np.float32], right: Sequence[bool]
) -> int:
    """Returns the rank by inner product, from 1, of the best candidate that is right.

    ``query`` is float32 ``(dim,)``, ``candidates`` ``(n, dim)``, and ``right`` says which of them
    are. A wrong one of the same score is before it, so that a model that gives one vector for
    everything scores 0.
    """
    scores = candidates @ query
    wanted = np.asarray(right)
    return 1 + int(np.count_nonzero(scores[~wanted] >= scores[wanted].max()))


def scores_of(ranks: Sequence[int], chances: Sequence[float]) -> Scores:
    """Averages over queries. ``chances`` are the shares of their candidates that are right."""
    places = np.asarray(ranks, np.float64)
    return Scores(
        hit1=float(np.mean(places <= 1)),
        hit5=float(np.mean(places <= 5)),
        hit10=float(np.mean(places <= 10)),
        mrr=float(np.mean(1 / places)),
        ndcg5=float(np.mean(np.where(places <= 5, 1 / np.log2(1 + places), 0.0))),
        chance=float(np.mean(chances)),
    )


def averages(data_sets: Mapping[str, DataSetScores]) -> dict[str, Scores]:
    """Averages over data sets, each counting once, by meta-task, by split, and overall."""
    rows = list(data_sets.values())
    groups = {name: [row for row in rows if row.meta_task == name] for name in META_TASKS}
    groups |= {name: [row for row in rows if row.split == name] for name in SPLITS}
    groups[OVERALL] = rows
    return {
        name: _mean([row.scores for row in members]) for name, members in groups.items() if members
    }


def _mean(rows: Sequence[Scores]) -> Scores:
    columns = zip(*(asdict(row).values() for row in rows), strict=True)
    return Scores(*(float(np.mean(column)) for column in columns))
