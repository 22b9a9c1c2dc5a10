"""The shadow: a version that answers beside the champion, is compared with it, and thrown away.

Its vectors lie in another space, so what counts is whether it sees the same neighbours: of so many
inputs each, how many of an input's nearest ones both versions agree on.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable

import numpy as np
import numpy.typing as npt

from vlm2vec_service.errors import DeadlineError, ServeError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import QueuedInput
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.versions.catalog import Version

log = logging.getLogger(__name__)

MOST_PENDING = 64
"""Copies that may wait; further ones are dropped, and counted."""
GROUP, NEIGHBOURS = 32, 5
"""Inputs that are compared with each other, and how many nearest ones of each."""
PATIENCE = 60.0
"""Seconds that a copy may wait for the device to have nothing else to do."""

Vector = npt.NDArray[np.float32]


class Shadow:
    """Compares a model's shadow with its champion. Single-threaded: the event loop's."""

    def __init__(self, model: str, scheduler: Scheduler, metrics: Metrics) -> None:
        self.model = model
        self.scheduler = scheduler
        self.metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()
        self._pairs: deque[tuple[Vector, Vector]] = deque()
        self._versions: tuple[str, str] = ("", "")
        for counter in (metrics.shadow_errors, metrics.shadow_dropped):
            counter.labels(model)  # from 0, for dashboards

    def offer(
        self,
        champion: Version,
        shadow: Version,
        vector: Vector,
        prepare: Callable[[], Awaitable[Prepared]],
        done: Callable[[], None],
    ) -> None:
        """Computes what ``shadow`` makes of an input for which ``champion`` gave ``vector``, and
        calls ``done`` when the copy is no longer needed."""
        if len(self._tasks) >= MOST_PENDING:
            done()
            self.metrics.shadow_dropped.labels(self.model).inc()
            return
        if self._versions != (champion.key, shadow.key):
            self._versions = (champion.key, shadow.key)
            self._pairs.clear()
        task = asyncio.create_task(self._compare(self._versions, shadow, vector, prepare))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: done())

    async def _compare(
        self,
        versions: tuple[str, str],
        shadow: Version,
        vector: Vector,
        prepare: Callable[[], Awaitable[Prepared]],
    ) -> None:
        try:
            queued = QueuedInput(
                BatchInput(await prepare(), shadow.key),
                interactive=False,
                caller="",
                deadline=time.monotonic() + PATIENCE,
                future=asyncio.get_running_loop().create_future(),
                shadow=True,
            )
            embedded = await self.scheduler.run(queued)
        except DeadlineError:
            self.metrics.shadow_dropped.labels(self.model).inc()
            return
        except ServeError as error:
            self.metrics.shadow_errors.labels(self.model).inc()
            log.warning("model %s: shadow %s: %s", self.model, shadow.name, error)
            return
        if versions != self._versions:
            return
        pair = unit(vector), unit(embedded.vector)
        self.metrics.shadow_cosine.labels(self.model).observe(float(pair[0] @ pair[1]))
        self._pairs.append(pair)
        if len(self._pairs) == GROUP:
            ours, theirs = (np.stack(side) for side in zip(*self._pairs, strict=True))
            self._pairs.clear()
            overlap = neighbour_overlap(ours, theirs, NEIGHBOURS)
            self.metrics.shadow_overlap.labels(self.model).observe(overlap)


def unit(vector: Vector) -> Vector:
    """``vector`` with length 1; zeros stay zeros."""
    length = float(np.linalg.norm(vector))
    return vector / np.float32(length) if length else vector


def neighbour_overlap(ours: Vector, theirs: Vector, count: int) -> float:
    """Mean share, 0 to 1, of each row's ``count`` nearest other rows that both have in common.

    ``ours`` and ``theirs`` are unit vectors float32 ``(inputs, dim)`` of the same inputs.
    """
    nearest = []
    for vectors in (ours, theirs):
        cosines = vectors @ vectors.T
        np.fill_diagonal(cosines, -np.inf)
        nearest.append(np.argsort(-cosines, axis=1, kind="stable")[:, :count])
    shared = [len(set(a) & set(b)) for a, b in zip(*map(np.ndarray.tolist, nearest), strict=True)]
    return float(np.mean(shared)) / count
