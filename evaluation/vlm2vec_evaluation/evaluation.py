"""Scores tasks: embeds every distinct input once, and ranks the candidates of each query."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_evaluation.metrics import DataSetScores, Scores, averages, groups, mean, of_query
from vlm2vec_evaluation.ranking import Ranking
from vlm2vec_evaluation.reading import Reading, Row, label
from vlm2vec_evaluation.source import Embed, Key, by_client
from vlm2vec_evaluation.suite import METRICS, MISSING
from vlm2vec_evaluation.task import PoolTask, Task
from vlm2vec_evaluation.vector_file import Vectors

if TYPE_CHECKING:
    from vlm2vec import Client
    from vlm2vec.inputs import InputLike


@dataclass(frozen=True)
class Evaluation:
    """The scores of every data set, by name and in the order of evaluation.

    ``skipped`` says why the model cannot take others; ``zeros`` has the scores of those, where they
    count 0 in the averages.
    """

    data_sets: dict[str, DataSetScores]
    skipped: dict[str, str] = field(default_factory=dict)
    zeros: dict[str, DataSetScores] = field(default_factory=dict)

    @property
    def averages(self) -> dict[str, Scores]:
        """Averages by meta-task ("classification", …), by modality where there are several, by
        split ("ind", "ood"), and "overall"."""
        return averages(self.data_sets | self.zeros)

    @property
    def headline(self) -> dict[str, float]:
        """Averages, by the same names, of each data set's own metric."""
        found = groups(self.data_sets | self.zeros)
        return {name: float(np.mean([row.score for row in rows])) for name, rows in found.items()}


@dataclass(frozen=True)
class Ranked:
    """What was found in one data set, for reports: the places of ``rankings`` are those of
    ``reading``."""

    scores: DataSetScores
    reading: Reading
    rows: Sequence[Row]
    rankings: Sequence[Ranking]


def evaluate(
    source: "Client | Embed",
    tasks: Iterable[Task | PoolTask],
    *,
    vectors: Vectors | None = None,
    missing: str = MISSING[0],
    keep: Callable[[Ranked], None] | None = None,
    progress: bool = False,
) -> Evaluation:
    """Ranks each query's candidates by cosine, and scores the rank of the right one.

    Where several are right, it is the rank of the best placed. ``source`` is a client, whose
    server's default model then answers, or a function such as
    `vlm2vec_evaluation.source.by_client` makes. Only inputs that are not in ``vectors`` are
    embedded, and their vectors added there. ``tasks`` may be lazy: one is held at a time. A task
    that the model cannot take is skipped; ``missing`` is as in `Suite`. ``keep`` is called with
    each data set once it is ranked.

    Raises `EvaluationError` where an input has no vector, after all others of its task have theirs.
    """
    if not callable(source):
        source = by_client(source)
    known: Vectors = {} if vectors is None else vectors
    found, skipped, zeros = {}, {}, {}
    for task in tasks:
        try:
            ranked = _evaluate(source, task, known, progress)
            found[task.name] = ranked.scores
            if keep:
                keep(ranked)
        except UnsupportedError as error:
            skipped[task.name] = str(error)
            if missing != MISSING[0]:
                zeros[task.name] = DataSetScores.skipped(
                    task.name, task.meta_task, task.split, _metric(task)
                )
    if not found:
        raise EvaluationError(f"the model takes the inputs of none: {skipped}")
    return Evaluation(found, skipped, zeros)


def _evaluate(embed: Embed, task: Task | PoolTask, vectors: Vectors, progress: bool) -> Ranked:
    reading = Reading(task)
    _embed(embed, task.name, reading.inputs(vectors), vectors, progress)
    rows = reading.rows()
    if not rows:
        raise EvaluationError(f"{task.name}: there are no queries")
    found, chances = [], []
    rankings = reading.rank(rows, vectors)
    for row, ranking in zip(rows, rankings, strict=True):
        found.append(of_query(ranking.ranks.tolist(), row.grades))
        ranked = len(reading.keys) if row.among is None else len(row.among)
        chances.append(len(row.right) / ranked)
    metric = _metric(task)
    scores = DataSetScores(
        task.name, task.meta_task, task.split, len(rows), reading.digest,
        Scores.of(mean(found), float(np.mean(chances))), metric,
        np.array([values[metric] for values in found], np.float32),
    )  # fmt: skip
    return Ranked(scores, reading, rows, rankings)


def _metric(task: Task | PoolTask) -> str:
    return task.metric if isinstance(task, PoolTask) else METRICS[0]


def _embed(
    embed: Embed,
    name: str,
    items: "Iterable[tuple[Key, InputLike]]",
    vectors: Vectors,
    progress: bool,
) -> None:
    """Embeds ``items`` as they come. Raises `EvaluationError` if one has no vector."""
    failures: list[tuple[InputLike, object]] = []
    asked = 0
    waiting: dict[Key, InputLike] = {}

    def noted() -> "Iterator[tuple[Key, InputLike]]":
        nonlocal asked
        for key, item in items:
            asked += 1
            waiting[key] = item
            yield key, item

    with tqdm(desc=name, unit=" inputs", disable=not progress) as bar:
        for key, result in embed(noted()):
            item = waiting.pop(key)
            if isinstance(result, Exception):
                failures.append((item, result))
            elif not (np.isfinite(result).all() and result.any()):
                failures.append((item, "its vector is zero or not finite"))
            else:
                vectors[key] = result
            bar.update()
    if failures:
        item, reason = failures[0]
        raise EvaluationError(
            f"{name}: {len(failures)} of {asked} inputs have no vector, the first "
            f"{label(item, whole=True)[:300]}: {reason}"
        )
