"""Ranks candidates by inner product, block by block, so that no score matrix is ever whole."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]
TOP = 10
"""How many of the best candidates are kept: no metric but MRR looks further."""
TIE = 1e-6
"""Scores that are no further apart are equal: products of equal vectors differ by rounding."""
BLOCK = 8192
"""Candidates whose vectors are in memory at once."""
TILE = 1024
"""Queries that are multiplied with a block at once: `TILE` * `BLOCK` scores are 32 MiB."""


class Pool(Protocol):
    """The unit vectors of the candidates, float32 ``(n, dim)``, read a block or a choice at a
    time."""

    def __len__(self) -> int: ...

    def take(self, indices: Indices) -> Matrix:
        """Returns the vectors at ``indices``, ``(len(indices), dim)``."""


@dataclass(frozen=True)
class Ranking:
    """Where the right candidates of one query stand.

    ``ranks`` is int64 ``(right,)``, the rank from 1 of each right candidate, in the order in which
    they were given. That of the best is exact; any other beyond `TOP` may be said too low, but
    never as low as `TOP`. ``top`` are the places of the best candidates in the pool, at most `TOP`,
    the best first, and ``scores`` theirs, float32.
    """

    ranks: Indices
    top: Indices
    scores: Matrix


def rank(
    queries: Matrix,
    pool: Pool,
    right: Sequence[Indices],
    equal: Sequence[Indices] | None = None,
) -> list[Ranking]:
    """Ranks the whole ``pool`` for each of ``queries``, unit vectors ``(n, dim)``.

    ``right`` holds the places of each query's right candidates in the pool, and ``equal`` the
    places of those that are the same as a right one and are left out for it. A wrong candidate of
    the same score is before a right one, so that a model that gives one vector for everything
    scores 0. Memory is that of the queries and of one block.
    """
    equal = [np.empty(0, np.int64)] * len(queries) if equal is None else equal
    best = np.full(len(queries), np.inf, np.float32)
    rights = []
    for row, places in enumerate(right):
        rights.append(pool.take(places) @ queries[row])
        best[row] = rights[row].max(initial=-np.inf) if len(places) else np.inf
    hidden = [np.concatenate(pair) for pair in zip(right, equal, strict=True)]
    sweep = _Sweep(queries, best, hidden)
    for start in range(0, len(pool), BLOCK):
        places = np.arange(start, min(start + BLOCK, len(pool)))
        sweep.add(places, pool.take(places))
    return [
        _ranking(right[row], rights[row], sweep.places[row], sweep.scores[row], sweep.above[row])
        for row in range(len(queries))
    ]


class _Sweep:
    """The best `TOP` wrong candidates of each query so far, and how many beat its best right one.

    ``hidden`` are the candidates of each query that are not wrong.
    """

    def __init__(self, queries: Matrix, best: Matrix, hidden: Sequence[Indices]) -> None:
        self.queries = queries
        self.bar = best - TIE
        self.scores = np.full((len(queries), TOP), -np.inf, np.float32)
        self.places = np.full((len(queries), TOP), -1, np.int64)
        self.above = np.zeros(len(queries), np.int64)
        rows = np.repeat(np.arange(len(hidden)), [len(places) for places in hidden])
        columns = np.concatenate([*hidden, np.empty(0, np.int64)])
        order = np.argsort(columns, kind="stable")
        self._hidden = rows[order], columns[order]

    def add(self, places: Indices, vectors: Matrix) -> None:
        """Adds the candidates at ``places``, which are one run of the pool."""
        rows, columns = self._hidden
        span = slice(*np.searchsorted(columns, (places[0], places[-1] + 1)))
        for start in range(0, len(self.queries), TILE):
            tile = slice(start, start + TILE)
            scores = self.queries[tile] @ vectors.T
            here = (rows[span] >= start) & (rows[span] < start + TILE)
            scores[rows[span][here] - start, columns[span][here] - places[0]] = -np.inf
            self.above[tile] += np.count_nonzero(scores >= self.bar[tile, None], axis=1)
            better = np.flatnonzero(scores.max(axis=1) > self.scores[tile, -1])
            if len(better):
                self._keep(start + better, scores[better], places)

    def _keep(self, rows: Indices, scores: Matrix, places: Indices) -> None:
        count = min(TOP, scores.shape[1])
        best = np.argpartition(-scores, count - 1, axis=1)[:, :count]
        found = np.take_along_axis(scores, best, axis=1)
        merged = np.concatenate([self.scores[rows], found], axis=1)
        where = np.concatenate([self.places[rows], places[best]], axis=1)
        order = np.argsort(-merged, axis=1, kind="stable")[:, :TOP]
        self.scores[rows] = np.take_along_axis(merged, order, axis=1)
        self.places[rows] = np.take_along_axis(where, order, axis=1)


def _ranking(
    right: Indices, scores: Matrix, wrong: Indices, wrong_scores: Matrix, above: int
) -> Ranking:
    """Puts the right candidates between the best of the wrong ones."""
    order = np.argsort(-scores, kind="stable")
    # Of wrong ones as good as it, and of right ones that are better.
    ahead = (wrong_scores[None, :] >= scores[order, None] - TIE).sum(axis=1)
    if len(order):
        ahead = np.maximum(ahead, above)
    ranks = np.empty(len(right), np.int64)
    ranks[order] = np.arange(1, len(right) + 1) + ahead
    places = np.concatenate([wrong, right])
    values = np.concatenate([wrong_scores, scores - TIE]).astype(np.float32)
    best = np.argsort(-values, kind="stable")[:TOP]
    best = best[places[best] >= 0]
    return Ranking(ranks, places[best], np.concatenate([wrong_scores, scores])[best])
