"""Computes scores of rankings, and their averages over queries and over data sets.

The definitions are those of MMEB's score files: over the right candidates, each with a grade, and
their ranks, 1 where it is the best. A query without a right candidate scores 0, and counts.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vlm2vec_evaluation.suite import META_TASKS, MODALITIES, OVERALL, SPLITS

CUTS = (1, 5, 10)
"""The k of ``hit@k`` and the others."""
CUT_METRICS = (
    "hit", "precision", "recall", "f1", "map", "mrr", "ndcg_linear", "ndcg_exponential",
)  # fmt: skip
"""What is computed of the first k candidates."""


@dataclass(frozen=True)
class Scores:
    """The scores of a data set or their averages, each from 0 to 1.

    ``mrr`` looks at all candidates, ``ndcg5`` has a linear gain, and ``chance`` is the hit@1 of a
    blind choice. ``all`` has every metric by the name that MMEB's score files have for it, such as
    ``ndcg_linear@5``.
    """

    hit1: float
    hit5: float
    hit10: float
    mrr: float
    ndcg5: float
    chance: float
    all: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, float], chance: float) -> "Scores":
        """Makes scores of ``values``, every metric by its name."""
        return cls(
            values["hit@1"], values["hit@5"], values["hit@10"], values["mrr"],
            values["ndcg_linear@5"], chance, values,
        )  # fmt: skip


@dataclass(frozen=True)
class DataSetScores:
    """The scores of one data set, and what identifies the data that they are of.

    ``data`` is a digest, in 32 hexadecimal digits, of every query and candidate that was embedded.
    ``metric`` is the name of the data set's own metric, and ``each`` what every query scores by it,
    float32 ``(queries,)``, which two versions are compared by.
    """

    name: str
    meta_task: str
    split: str
    queries: int
    data: str
    scores: Scores
    metric: str = "hit@1"
    each: npt.NDArray[np.float32] = field(
        default_factory=lambda: np.empty(0, np.float32), compare=False
    )

    @property
    def score(self) -> float:
        """The data set's own metric."""
        return self.scores.all[self.metric] if self.scores.all else self.scores.hit1

    @classmethod
    def skipped(cls, name: str, meta_task: str, split: str, metric: str) -> "DataSetScores":
        """Makes the scores of a data set that the model cannot take: all are 0."""
        zeros = mean([of_query([], [])])
        return cls(name, meta_task, split, 0, "", Scores.of(zeros, 0.0), metric)


def of_query(ranks: Sequence[int], grades: Sequence[float]) -> dict[str, float]:
    """Computes every metric of one query, of its right candidates' ``ranks`` and ``grades``.

    Ranks are distinct, grades positive. The best possible order has the highest grades first.
    """
    found = sorted(zip(ranks, grades, strict=True))
    values = {"mrr": 1.0 / found[0][0] if found else 0.0}
    for cut in CUTS:
        within = [(rank, grade) for rank, grade in found if rank <= cut]
        precision = len(within) / cut
        recall = len(within) / len(found) if found else 0.0
        hits = [count / rank for count, (rank, _) in enumerate(within, 1)]
        values |= {
            f"hit@{cut}": float(bool(within)),
            f"precision@{cut}": precision,
            f"recall@{cut}": recall,
            f"f1@{cut}": 2 * precision * recall / (precision + recall) if within else 0.0,
            f"map@{cut}": sum(hits) / min(len(found), cut) if found else 0.0,
            f"mrr@{cut}": 1.0 / within[0][0] if within else 0.0,
            f"ndcg_linear@{cut}": _ndcg(within, grades, cut),
            f"ndcg_exponential@{cut}": _ndcg(
                [(rank, 2.0**grade - 1) for rank, grade in within],
                [2.0**grade - 1 for grade in grades],
                cut,
            ),
        }
    return values


def _ndcg(within: Sequence[tuple[int, float]], gains: Sequence[float], cut: int) -> float:
    best = sorted(gains, reverse=True)[:cut]
    ideal = sum(gain / np.log2(1 + rank) for rank, gain in enumerate(best, 1))
    return float(sum(gain / np.log2(1 + rank) for rank, gain in within) / ideal) if within else 0.0


def mean(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    """Averages each metric over queries, or data sets, of which there is at least one."""
    every = list(rows)
    return {name: float(np.mean([row[name] for row in every])) for name in every[0]}


def averages(data_sets: Mapping[str, DataSetScores]) -> dict[str, Scores]:
    """Averages over data sets, each counting once: by meta-task, by modality where there are
    several, by split, and overall."""
    return {name: _mean([row.scores for row in rows]) for name, rows in groups(data_sets).items()}


def groups(data_sets: Mapping[str, DataSetScores]) -> dict[str, list[DataSetScores]]:
    """Groups data sets as `averages` averages them; no group is empty."""
    rows = list(data_sets.values())
    found = {name: [row for row in rows if row.meta_task == name] for name in META_TASKS}
    modalities = {name: [row for row in rows if META_TASKS[row.meta_task] == name]
                  for name in MODALITIES}  # fmt: skip
    if sum(map(bool, modalities.values())) > 1:
        found |= modalities
    found |= {name: [row for row in rows if row.split == name] for name in SPLITS}
    return {name: members for name, members in found.items() if members} | {OVERALL: rows}


def _mean(rows: Sequence[Scores]) -> Scores:
    numbers = {
        name: float(np.mean([getattr(row, name) for row in rows]))
        for name in ("hit1", "hit5", "hit10", "mrr", "ndcg5", "chance")
    }
    return Scores(**numbers, all=mean(row.all for row in rows) if rows[0].all else {})
