"""Scores tasks: embeds every distinct input once, and ranks the candidates of each query."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.metrics import DataSetScores, Scores, averages, rank, scores_of
from vlm2vec_evaluation.source import Embed, Key, by_client, key_of
from vlm2vec_evaluation.task import Task
from vlm2vec_evaluation.vector_file import Vectors

if TYPE_CHECKING:
    from vlm2vec import Client
    from vlm2vec.inputs import InputLike


@dataclass(frozen=True)
class Evaluation:
    """The scores of every data set, by name and in the order of evaluation."""

    data_sets: dict[str, DataSetScores]

    @property
    def averages(self) -> dict[str, Scores]:
        """Averages by meta-task ("classification", …), by split ("ind", "ood"), and "overall"."""
        return averages(self.data_sets)


def evaluate(
    source: "Client | Embed",
    tasks: Iterable[Task],
    *,
    vectors: Vectors | None = None,
    progress: bool = False,
) -> Evaluation:
    """Ranks each query's candidates by cosine, and scores the rank of the right one.

    Where several are right, it is the rank of the best placed. ``source`` is a client, whose
    server's default model then answers, or a function such as
    `vlm2vec_evaluation.source.by_client` makes. Only inputs that are not in ``vectors`` are
    embedded, and their vectors added there. ``tasks`` may be lazy: one is held at a time.

    Raises `EvaluationError` where an input has no vector, after all others of its task have theirs.
    """
    if not callable(source):
        source = by_client(source)
    known: Vectors = {} if vectors is None else vectors
    found = {}
    for task in tasks:
        found[task.name] = _evaluate(source, task, known, progress)
    return Evaluation(found)


def _evaluate(embed: Embed, task: Task, vectors: Vectors, progress: bool) -> DataSetScores:
    inputs = _Inputs()
    rows = []
    for record in task.records:
        candidates = [inputs.key(item) for item in record.candidates]
        right = {candidates[index] for index in record.right}
        rows.append((inputs.key(record.query), candidates, right))
    missing = [(key, item) for key, item in inputs.items.items() if key not in vectors]
    _embed(embed, task.name, missing, vectors, progress)
    places = {key: index for index, key in enumerate(inputs.items)}
    matrix = np.stack([vectors[key] for key in inputs.items])
    matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
    ranks, chances = [], []
    for query, candidates, right in rows:
        distinct = list(dict.fromkeys(candidates))
        among = matrix[[places[key] for key in distinct]]
        ranks.append(rank(matrix[places[query]], among, [key in right for key in distinct]))
        chances.append(len(right) / len(distinct))
    data = hashlib.sha256()
    for query, candidates, right in rows:
        data.update(b"".join([query, *candidates, *sorted(right)]))
    return DataSetScores(
        task.name, task.meta_task, task.split, len(rows), data.hexdigest()[:32],
        scores_of(ranks, chances),
    )  # fmt: skip


class _Inputs:
    """Distinct inputs by their keys, in the order in which they came."""

    def __init__(self) -> None:
        self.items: dict[Key, InputLike] = {}
        # The same candidates come with every query. Each object is held: its id stays its own.
        self._seen: dict[int, tuple[InputLike, Key]] = {}

    def key(self, item: "InputLike") -> Key:
        if id(item) not in self._seen:
            key = key_of(item)
            self._seen[id(item)] = item, key
            self.items.setdefault(key, item)
        return self._seen[id(item)][1]


def _embed(
    embed: Embed,
    name: str,
    items: "list[tuple[Key, InputLike]]",
    vectors: Vectors,
    progress: bool,
) -> None:
    failures: list[tuple[InputLike, object]] = []
    by_key = dict(items)
    with tqdm(total=len(items), desc=name, unit=" inputs", disable=not progress) as bar:
        for key, result in embed(items):
            if isinstance(result, Exception):
                failures.append((by_key[key], result))
            elif not (np.isfinite(result).all() and result.any()):
                failures.append((by_key[key], "its vector is zero or not finite"))
            else:
                vectors[key] = result
            bar.update()
    if failures:
        item, reason = failures[0]
        raise EvaluationError(
            f"{name}: {len(failures)} of {len(items)} inputs have no vector, the first "
            f"{str(item)[:300]}: {reason}"
        )
