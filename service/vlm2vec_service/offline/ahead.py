"""Embeds more inputs than memory holds, and prepares the next while the engine runs."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice, tee
from typing import Generic, TypeVar

import numpy as np
import numpy.typing as npt

from vlm2vec_service.engine import Engine
from vlm2vec_service.preprocess import Prepared

Key = TypeVar("Key")
T = TypeVar("T")
R = TypeVar("R")

AHEAD = 64
"""How many inputs are prepared before they are gathered into a batch."""


@dataclass(frozen=True)
class Ready(Generic[Key]):
    """An input that is prepared for ``adapter``, of which None is the base model. ``key`` tells it
    from the others."""

    key: Key
    prepared: Prepared
    adapter: str | None = None


@dataclass(frozen=True)
class Failed(Generic[Key]):
    """An input that cannot be prepared."""

    key: Key
    error: Exception


@dataclass(frozen=True)
class Batch(Generic[Key]):
    """Inputs that were gathered together: those for the engine, and those it never sees."""

    ready: list[Ready[Key]] = field(default_factory=list)
    failed: list[Failed[Key]] = field(default_factory=list)


def in_threads(work: Callable[[T], R], inputs: Iterable[T], threads: int) -> Iterator[R]:
    """Does ``work`` with each of ``inputs``, some ahead of what is asked for; yields in order."""
    unread = iter(inputs)
    with ThreadPoolExecutor(threads) as pool:
        waiting: deque[Future[R]] = deque(pool.submit(work, one) for one in islice(unread, AHEAD))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(pool.submit(work, one) for one in islice(unread, 1))
            yield result


def embed_ahead(
    engine: Engine, inputs: Iterable[Ready[Key] | Failed[Key]]
) -> Iterator[tuple[Batch[Key], npt.NDArray[np.float32]]]:
    """Embeds ``inputs`` in batches of the engine's token budget, and gathers each batch while those
    before it run.

    Yields the batches in order, each with the vectors of its ``ready``, float32 ``(n, dim)``.
    """
    batches, same = tee(_one_ahead(_gathered(inputs, engine.token_budget)))
    ready = (batch.ready for batch in same if batch.ready)
    found = engine.embed_each([(one.prepared, one.adapter) for one in ones] for ones in ready)
    nothing = np.empty((0, engine.dim), np.float32)
    for batch in batches:
        yield batch, next(found) if batch.ready else nothing


def _gathered(
    inputs: Iterable[Ready[Key] | Failed[Key]], token_budget: int
) -> Iterator[Batch[Key]]:
    """Gathers inputs up to the token budget. One that failed counts as a token, so that no number
    of them is kept back."""
    batch, tokens = Batch[Key](), 0
    for one in inputs:
        length = len(one.prepared) if isinstance(one, Ready) else 1
        if tokens and tokens + length > token_budget:
            yield batch
            batch, tokens = Batch(), 0
        if isinstance(one, Ready):
            batch.ready.append(one)
        else:
            batch.failed.append(one)
        tokens += length
    if tokens:
        yield batch


def _one_ahead(made: Iterator[T]) -> Iterator[T]:
    """Yields what is ``made``, each while the next is made in a thread."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, made, None)
        while (one := coming.result()) is not None:
            coming = thread.submit(next, made, None)
            yield one
