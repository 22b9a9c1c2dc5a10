"""The queue of a worker's device: batches one at a time, and adapters in the gaps between them."""

import collections
import contextlib
import itertools
import logging
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import TypeVar

import numpy as np
import torch

from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.packing import Item

log = logging.getLogger(__name__)

LOADING_SHARE = 0.1
"""Of a batch's time, that loading adapters may take after it while further batches wait."""

T = TypeVar("T")
Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class DeviceQueue:
    """Runs batches, interactive ones first, otherwise in the order of arrival; and between them,
    in small steps, what loading an adapter computes.

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

    def submit(self, items: list[Item], interactive: bool) -> Future[tuple[Vectors, float]]:
        """Queues a batch; the future gives its vectors, float32 ``(items, dim)``, and the seconds
        that it took on the device."""

        def timed() -> tuple[Vectors, float]:
            start = time.perf_counter()
            return self.run(items), time.perf_counter() - start

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

    def run(self, items: list[Item]) -> Vectors:
        """One batch; where the device's memory does not hold it, its halves."""
        try:
            return self.engine.run(items)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(items) == 1:
                raise
            log.warning("out of memory: a batch of %d is split", len(items))
            middle = len(items) // 2
            return np.concatenate([self.run(items[:middle]), self.run(items[middle:])])

    def run_until(self, ended: Callable[[], bool]) -> None:
        """Works until ``ended``, which is asked after every batch and several times a second."""
        while not ended():
            with contextlib.suppress(queue.Empty):
                _, _, work = self._waiting.get(timeout=0.2)
                start = time.perf_counter()
                work()
                end = time.perf_counter()
                while self._steps and time.perf_counter() < end + LOADING_SHARE * (end - start):
                    self._step()
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
