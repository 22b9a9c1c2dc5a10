"""The queue of a worker's device: batches one at a time, and adapters in the gaps between them."""

import collections
import contextlib
import logging
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.packing import Item, PackedBatch
from vlm2vec_service.worker.turns import Turns

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


@dataclass(eq=False)
class WaitingBatch:
    """A batch that waits for the device. ``callers`` are its tokens by caller, ``begun`` is called
    when it begins, and ``future`` gives what became of it."""

    items: list[Item]
    interactive: bool
    callers: Mapping[str, int]
    begun: Callable[[], object]
    future: Future[Ran] = field(default_factory=Future)
    packing: Future[PackedBatch] | None = None

    def packed(self) -> PackedBatch | None:
        """What was packed ahead, which it then holds no longer; None if nothing was. Raises what
        packing raised."""
        packing, self.packing = self.packing, None
        return packing.result() if packing is not None else None


class DeviceQueue:
    """Runs batches one at a time, in the order of `Turns`; and between them, in small steps, what
    loading an adapter computes, and after that what merging busy ones does.

    All in the thread that calls `run_until`, which should be the one that loaded the engine: where
    two threads of a process have OpenMP teams, together more than the cores, libgomp lets neither
    spin, and every small operation on a CPU waits for the kernel.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._changed = threading.Condition()
        """Guards what waits, and tells of more."""
        self._turns: Turns[WaitingBatch] = Turns()
        self._steps: collections.deque[Callable[[], None]] = collections.deque()
        self._ended = False
        self._busy = False
        """Whether a batch runs."""
        self._packer = ThreadPoolExecutor(
            1, "packer", initializer=torch.set_num_threads, initargs=(1,)
        )

    def submit(
        self,
        items: list[Item],
        interactive: bool,
        callers: Mapping[str, int],
        begun: Callable[[], object] = lambda: None,
    ) -> Future[Ran]:
        """Queues a batch; the future gives what became of it, and may be cancelled until ``begun``
        is called. ``callers`` are its tokens by caller."""
        batch = WaitingBatch(items, interactive, callers, begun)
        # Otherwise the two would hold each other, and the batch's pixels, when it is done.
        waiting = weakref.ref(batch)
        batch.future.add_done_callback(lambda _: self._forget(waiting()))
        with self._changed:
            self._turns.put(batch)
            self._pack_ahead()
            self._changed.notify()
        return batch.future

    def _pack_ahead(self) -> None:
        """Lays out what the batch that is next needs, while the device is busy: of those behind it
        the memory would be held for long."""
        batch = self._turns.peek()
        if self._busy and batch is not None and batch.packing is None:
            batch.packing = self._packer.submit(self.engine.pack, batch.items)

    def _forget(self, batch: WaitingBatch | None) -> None:
        if batch is not None:
            with self._changed:
                self._turns.discard(batch)

    def spread(self, steps: Sequence[Callable[[], T]], /) -> list[T]:
        """Runs ``steps`` while no batch waits, and otherwise for a share of the time after each."""
        promised = [_promise(step) for step in steps]
        with self._changed:
            self._steps.extend(work for _, work in promised)
            self._changed.notify()
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
            batch = self._next(0.0 if merging else 0.2)
            if batch is not None:
                start = time.perf_counter()
                self._answer(batch)
                end = time.perf_counter()
                self._turns.ran(batch, end - start)
                self._fill(end + LOADING_SHARE * (end - start))
                merging = True
            elif self._steps:
                self._step()
                merging = True
            else:
                merging = self.engine.merge_step()
        # Nobody is left waiting for a step.
        self._ended = True
        self._finish_steps()

    def _next(self, seconds: float) -> WaitingBatch | None:
        """The batch whose turn it is, after at most ``seconds`` in which there is nothing to do."""
        with self._changed:
            self._busy = False
            if not self._turns and not self._steps:
                self._changed.wait(seconds)
            batch = self._turns.take()
            self._busy = batch is not None
            self._pack_ahead()
        return batch

    def _answer(self, batch: WaitingBatch) -> None:
        if not batch.future.set_running_or_notify_cancel():
            return
        batch.begun()
        start, before = time.perf_counter(), self.engine.path_tokens.copy()
        try:
            vectors = self.run(batch.items, batch.packed())
        except BaseException as error:  # noqa: BLE001 (whoever waits raises it)
            batch.future.set_exception(error)
            return
        seconds = time.perf_counter() - start
        paths = dict(self.engine.path_tokens - before)
        batch.future.set_result(Ran(vectors, seconds, paths))


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
