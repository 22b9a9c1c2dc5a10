"""Reads a task once: the inputs that are to be embedded, and then what is ranked by their vectors.

Of the inputs nothing is kept but their keys: a pool of half a million pages passes through.
"""

import hashlib
from collections import defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.ranking import Indices, Matrix, Ranking, rank
from vlm2vec_evaluation.source import Key, key_of
from vlm2vec_evaluation.task import PoolTask, Task
from vlm2vec_evaluation.vector_file import Vectors

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

Name: TypeAlias = Any
"""A candidate's name; in a `Task`, where candidates have none, its key."""
Item: TypeAlias = "tuple[InputLike, Mapping[Name, float], Sequence[Name] | None]"
"""A query, the grades of what is right, and what is ranked, or None for the whole pool."""


@dataclass(frozen=True)
class Row:
    """A query as it is ranked: places are those of candidates in the pool.

    ``right`` and ``grades`` are parallel; ``equal`` are the places of candidates that are the same
    input as a right one, and ``among`` those that are ranked, or None for the whole pool.
    """

    query: Key
    right: Indices
    grades: tuple[float, ...]
    equal: Indices
    among: Indices | None


class Reading:
    """The candidates and queries of one task, by their keys."""

    def __init__(self, task: Task | PoolTask) -> None:
        self.task = task
        self.names: dict[Name, int] = {}
        """The place of each candidate in the pool, by its name."""
        self.keys: list[Key] = []
        """The key of the candidate at each place."""
        self.labels: list[str] = []
        """What the candidate at each place is called in reports."""
        self.asked: list[str] = []
        """What each query is called in reports."""
        self._queries: list[tuple[Key, Mapping[Name, float], Sequence[Name] | None]] = []

    def inputs(self, known: Vectors) -> "Iterator[tuple[Key, InputLike]]":
        """Reads the task, and gives each distinct input that is not ``known``."""
        met: set[Key] = set()
        candidates, queries, key_of_item = _parts(self.task)
        for name, candidate in candidates:
            if name in self.names:
                continue
            key = key_of_item(candidate)
            self.names[name] = len(self.keys)
            self.keys.append(key)
            self.labels.append(name if isinstance(name, str) else label(candidate))
            if key not in met and key not in known:
                yield key, candidate
            met.add(key)
        for query, right, among in queries:
            key = key_of_item(query)
            self._queries.append((key, right, among))
            self.asked.append(label(query))
            if key not in met and key not in known:
                yield key, query
            met.add(key)

    def again(
        self, queries: Container[int], places: Container[int]
    ) -> "tuple[dict[int, InputLike], dict[int, InputLike]]":
        """Reads the task once more, for the inputs of some queries and candidates."""
        candidates, asked, _ = _parts(self.task)
        found: dict[int, InputLike] = {}
        for name, candidate in candidates:
            if (place := self.names[name]) in places:
                found.setdefault(place, candidate)
        return {i: item for i, (item, _, _) in enumerate(asked) if i in queries}, found

    @property
    def digest(self) -> str:
        """32 hexadecimal digits that are equal where all queries, candidates and answers are."""
        data = hashlib.sha256()
        if any(among is None for _, _, among in self._queries):
            data.update(b"".join(self.keys))
        for query, right, among in self._queries:
            places = [self.names[name] for name in among or ()]
            data.update(b"".join([query, *(self.keys[place] for place in places)]))
            data.update(b"".join(sorted(self.keys[self.names[name]] for name in right)))
            if set(right.values()) - {1.0}:
                data.update(repr(sorted((str(name), grade) for name, grade in right.items()))
                            .encode())  # fmt: skip
        return data.hexdigest()[:32]

    def rows(self) -> list[Row]:
        """Lists the queries. Raises `EvaluationError` for one that names a candidate which is not
        there."""
        twins: dict[Key, list[int]] = defaultdict(list)
        for place, key in enumerate(self.keys):
            twins[key].append(place)
        return [self._row(number, twins) for number in range(len(self._queries))]

    def _row(self, number: int, twins: Mapping[Key, list[int]]) -> Row:
        query, right, among = self._queries[number]
        try:
            places = [self.names[name] for name in right]
            ranked = None if among is None else [self.names[name] for name in dict.fromkeys(among)]
        except KeyError as error:
            raise EvaluationError(
                f"{self.task.name}: query {number + 1}: there is no candidate {error}"
            ) from None
        if ranked is not None and (outside := set(places) - set(ranked)):
            raise EvaluationError(
                f"{self.task.name}: query {number + 1}: {len(outside)} right candidates are not "
                "among those that are ranked"
            )
        equal = {twin for place in places for twin in twins[self.keys[place]]} - set(places)
        return Row(
            query, np.array(places, np.int64), tuple(right.values()),
            np.array(sorted(equal), np.int64),
            None if ranked is None else np.array(ranked, np.int64),
        )  # fmt: skip

    def rank(self, rows: Sequence[Row], vectors: Vectors) -> list[Ranking]:
        """Ranks the candidates of each of ``rows``; places are those in the pool."""
        pool = VectorPool(self.keys, vectors)
        queries = VectorPool([row.query for row in rows], vectors).take(np.arange(len(rows)))
        whole = [number for number, row in enumerate(rows) if row.among is None]
        found = dict(zip(whole, rank(
            queries[whole], pool,
            [rows[number].right for number in whole], [rows[number].equal for number in whole],
        ), strict=True)) if whole else {}  # fmt: skip
        if len(whole) < len(rows):
            held = pool.take(np.arange(len(self.keys)))
            for number, row in enumerate(rows):
                if row.among is not None:
                    found[number] = _among(queries[number], held, row, row.among)
        return [found[number] for number in range(len(rows))]


def _among(query: Matrix, held: Matrix, row: Row, among: Indices) -> Ranking:
    """Ranks the candidates at ``among`` alone."""
    order = {int(place): index for index, place in enumerate(among)}
    right = np.array([order[int(place)] for place in row.right], np.int64)
    equal = np.array([order[int(one)] for one in row.equal if int(one) in order], np.int64)
    (found,) = rank(query[None], _Held(held[among]), [right], [equal])
    return Ranking(found.ranks, among[found.top], found.scores)


class VectorPool:
    """The vectors of ``keys``, normalised as they are read."""

    def __init__(self, keys: Sequence[Key], vectors: Vectors) -> None:
        self._keys, self._vectors = keys, vectors

    def __len__(self) -> int:
        return len(self._keys)

    def take(self, indices: Indices) -> Matrix:
        """Reads the vectors at ``indices`` as float32 ``(len(indices), dim)``."""
        if not len(indices):
            return np.empty((0, len(self._vectors[self._keys[0]])), np.float32)
        matrix = np.stack([self._vectors[self._keys[index]] for index in indices])
        matrix = matrix.astype(np.float32, copy=False)
        matrix /= np.linalg.norm(matrix, axis=1, keepdims=True)
        return matrix


class _Held:
    """A pool in memory."""

    def __init__(self, matrix: Matrix) -> None:
        self._matrix = matrix

    def __len__(self) -> int:
        return len(self._matrix)

    def take(self, indices: Indices) -> Matrix:
        return self._matrix[indices]


def label(item: "InputLike", *, whole: bool = False) -> str:
    """Names an input for people: its words, and the files of its media, by their ``whole`` paths or
    by their names."""
    if isinstance(item, str | PathLike):
        return str(item)
    words = [getattr(item, key, None) for key in ("prompt", "instruction", "text")]
    media = (*getattr(item, "images", ()), *getattr(item, "audios", ()))
    return " ".join([
        *(word for word in words if word),
        *(f"[{one if whole else Path(one).name}]" for one in media
          if isinstance(one, str | PathLike)),
    ])  # fmt: skip


def _parts(
    task: Task | PoolTask,
) -> "tuple[Iterable[tuple[Name, InputLike]], Iterable[Item], Callable[[InputLike], Key]]":
    """Gives a task's candidates, its queries, and what finds the key of either."""
    if isinstance(task, PoolTask):
        queries = ((query.input, query.right, query.candidates) for query in task.queries())
        return task.candidates(), queries, key_of
    # Each object is held by the task, so its id stays its own, and it is hashed once.
    seen: dict[int, tuple[InputLike, Key]] = {}

    def key(item: "InputLike") -> Key:
        if id(item) not in seen:
            seen[id(item)] = item, key_of(item)
        return seen[id(item)][1]

    def records() -> "Iterator[Item]":
        for record in task.records:
            names = [key(item) for item in record.candidates]
            yield record.query, {names[index]: 1.0 for index in record.right}, names

    pairs = ((key(item), item) for record in task.records for item in record.candidates)
    return pairs, records(), key
