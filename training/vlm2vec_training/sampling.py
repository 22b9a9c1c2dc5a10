"""Decides which rows are in which step.

It follows from the seed and the step alone, so that a run that was killed goes on with the same
rows.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np


class Row(NamedTuple):
    """A row by the index of its subset and its index there."""

    subset: int
    row: int


def batches(
    sizes: Sequence[int], weights: Sequence[float], batch: int, sub_batch: int, seed: int
) -> Iterator[list[Row]]:
    """Makes endless batches of ``batch`` rows, in sub-batches that are each of one subset.

    A sub-batch's subset is drawn by ``weights``; a subset's rows come in a random order, and in
    another one when all have been.
    """
    chances = np.asarray(weights, np.float64) / np.sum(weights)
    rows = [_rows(size, [seed, index]) for index, size in enumerate(sizes)]
    choose = np.random.default_rng(seed)
    while True:
        chosen: list[Row] = []
        while len(chosen) < batch:
            subset = int(choose.choice(len(sizes), p=chances))
            count = min(sub_batch, batch - len(chosen))
            chosen += [Row(subset, next(rows[subset])) for _ in range(count)]
        yield chosen


def _rows(size: int, seed: list[int]) -> Iterator[int]:
    epoch = 0
    while True:
        yield from np.random.default_rng([*seed, epoch]).permutation(size).tolist()
        epoch += 1
