"""The queue of a worker's device: batches one at a time, and adapters in the gaps between them."""

import collections
import contextlib
import itertools
import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch

from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.packing import Item, PackedBatch

log = logging.getLogger(__name__)

LOADING_SHARE = 0.1
"""Of a batch's time, that loading and merging adapters may take after it while further batches
wait."""

T = TypeVar("T")
Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


@dataclass(frozen=True)
class Ran:
    """What became of a batch: its vectors, float32 ``(items, dim)``, the seconds that it took on
    the device, and its tokens by their path: ``base``, ``low_rank`` or ``merged``."""

    vectors: Vectors
    seconds: float
    path_tokens: dict[str, int]


class DeviceQueue:
    """Runs batches, interactive ones first, otherwise in the order of arrival; and between them,
    in small steps, what loading an adapter computes, and after that what merging busy ones does.

    All in the thread that calls `run_until`, which should be the one that loaded the engine: where
    two threads of a process have OpenMP teams, together more than the cores, libgomp lets neither
    spin, and every small operation on a CPU waits for the kernel.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._order = itertools.count()
        self._waiting: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = (
            queue.PriorityQueue()
        )
        self._steps: collections.deque[Callable[[], None]] = collections.deque()
        self._ended = False

    def submit(self, items: list[Item], interactive: bool) -> Future[Ran]:
        """Queues a batch; the future gives what became of it."""
        # Here the one before may still run: what this one needs is laid out meanwhile.
        packed = [self.engine.pack(items)]

        def timed() -> Ran:
            start, before = time.perf_counter(), self.engine.path_tokens.copy()
            vectors = self.run(items, packed.pop())
            seconds = time.perf_counter() - start
            return Ran(vectors, seconds, dict(self.engine.path_tokens - before))

        future, work = _promise(timed)
        self._waiting.put((0 if interactive else 1, next(self._order), work))
        return future

    def spread(self, steps: Sequence[Callable[[], T]], /) -> list[T]:
        """Runs ``steps`` while no batch waits, and otherwise for a share of the time after each."""
        promised = [_promise(step) for step in steps]
        for _, work in promised:
            self._steps.append(work)
            self._waiting.put((2, next(self._order), self._step))
        if self._ended:
            self._finish_steps()
        return [future.result() for future, _ in promised]

    def _step(self) -> None:
        with contextlib.suppress(IndexError):
            self._steps.popleft()()

    def _finish_steps(self) -> None:
        while self._steps:
            self._step()

    def _fill(self, until: float) -> None:
        """Loads, and when there is nothing to load merges, until ``until``, a time of
        `time.perf_counter`."""
        while time.perf_counter() < until:
            if self._steps:
                self._step()
            elif not self.engine.merge_step():
                break

    def run(self, items: list[Item], batch: PackedBatch | None = None) -> Vectors:
        """Runs one batch, packed already or not; where the device's memory does not hold it,
        without a merged copy or two, and if that is not enough in halves."""
        try:
            return self.engine.launch(batch or self.engine.pack(items)).vectors()
        except torch.OutOfMemoryError as error:
            reason = str(error)
        # Only here, where no traceback holds the batch's tensors any more. The batch itself holds
        # the merged copies that it was to go through.
        batch = None
        torch.cuda.empty_cache()
        if self.engine.merged.free_one():
            return self.run(items)
        if len(items) == 1:
            raise torch.OutOfMemoryError(reason)
        log.warning("out of memory: a batch of %d is split", len(items))
        middle = len(items) // 2
        return np.concatenate([self.run(items[:middle]), self.run(items[middle:])])

    def run_until(self, ended: Callable[[], bool]) -> None:
        """Works until ``ended``, which is asked after every batch and several times a second."""
        merging = False
        while not ended():
            try:
                _, _, work = self._waiting.get(timeout=0.0 if merging else 0.2)
            except queue.Empty:
                merging = self.engine.merge_step()
                continue
            start = time.perf_counter()
            work()
            end = time.perf_counter()
            self._fill(end + LOADING_SHARE * (end - start))
            merging = True
        # Nobody is left waiting for a step.
        self._ended = True
        self._finish_steps()


def _promise(function: Callable[[], T]) -> tuple[Future[T], Callable[[], None]]:
    """A future, and what fulfils it with what ``function`` gives or raises."""
    future: Future[T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 (whoever waits raises it)
            future.set_exception(error)

    return future, work
