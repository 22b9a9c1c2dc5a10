"""Gives the workers of one model their batches, and every request its answer."""

import asyncio
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import numpy as np

from vlm2vec_service.errors import (
    AdapterError,
    DeadlineError,
    ExhaustedError,
    NotFoundError,
    ServeError,
    WorkerLostError,
)
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.batch import BatchWorker
from vlm2vec_service.scheduling.fair_queue import Embedded, FairQueue, Flow, QueuedInput
from vlm2vec_service.scheduling.lane import Batch, Lane
from vlm2vec_service.scheduling.places import Places
from vlm2vec_service.scheduling.suspects import Suspects

log = logging.getLogger(__name__)


class Scheduler:
    """One queue for the workers of one model. Single-threaded: the event loop's."""

    def __init__(self, model: str, max_requests: int, max_tokens: int, metrics: Metrics) -> None:
        self.model = model
        self.metrics = metrics
        self.queue = FairQueue()
        self.places = Places(max_requests, max_tokens, self.queue)
        self._suspects = Suspects()
        self._lanes: list[Lane] = []
        self._feeding: dict[BatchWorker, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        for counter in (metrics.refused, metrics.starting_refused, metrics.fatal_inputs):
            counter.labels(model)  # from 0, for dashboards and autoscalers
        metrics.pending.labels(model).set_function(lambda: self.places.taken)
        metrics.queue_requests.labels(model).set_function(lambda: self.queue.requests)
        metrics.queue_tokens.labels(model).set_function(lambda: self.queue.tokens)

    def add_worker(self, worker: BatchWorker) -> Lane:
        """Starts feeding ``worker``; ``wake`` of the lane has to be set whenever it gets ready."""
        lane = Lane(worker)
        self._lanes.append(lane)
        self._feeding[worker] = self._start(self._feed(lane))
        return lane

    def remove_worker(self, worker: BatchWorker) -> None:
        """Stops feeding ``worker``, which is gone. What was sent to it fails by itself, and runs
        again in another."""
        self._lanes = [lane for lane in self._lanes if lane.worker is not worker]
        self._feeding.pop(worker).cancel()

    def admit(self, flow: Flow, deadline: float, inputs: int = 1) -> None:
        """Counts ``inputs`` more of ``flow`` in, until `release`.

        Raises `ExhaustedError` with a hint when the flow has no place left (see `Places`), or so
        much comes before it that the deadline (in the time of ``time.monotonic``) would pass;
        `DeadlineError` when it has passed.
        """
        now, places = time.monotonic(), self.places
        if now >= deadline:
            raise DeadlineError("the deadline passed before there was a place in the queue")
        wait = self.expected_wait(flow)
        if not places.has_room(flow):
            self.metrics.refused.labels(self.model).inc(inputs)
            raise ExhaustedError(
                f"the queue is full for this caller: {places.taken_by(flow)} of {places.taken} "
                f"requests are its own (max_queue_requests {places.most}), "
                f"{self.queue.tokens_of(flow)} of {self.queue.tokens} tokens (max_queue_tokens "
                f"{places.max_tokens})",
                retry_after=min(max(wait / 2, 0.1), 30.0),
            )
        if now + wait > deadline:
            self.metrics.refused.labels(self.model).inc(inputs)
            raise ExhaustedError(
                f"the queue takes about {wait:.2g} s, longer than the deadline allows",
                retry_after=min(wait, 30.0),
            )
        places.take(flow, inputs)

    async def wait_for_place(self, flow: Flow, inputs: int = 1) -> None:
        """Counts ``inputs`` more of ``flow`` in, as `admit` does, but waits for room."""
        await self.places.wait(flow, inputs)

    def release(self, flow: Flow, inputs: int = 1) -> None:
        """The counterpart of `admit` and `wait_for_place`, once there is an answer."""
        self.places.give_back(flow, inputs)

    def expected_wait(self, flow: Flow) -> float:
        """Seconds until the tokens that are queued now and come before a further input of ``flow``
        have run, by the rate of the last batches; 0 while no batch was large enough to tell."""
        measured = [lane for lane in self._lanes if lane.measured]
        ready = sum(lane.rate for lane in measured if lane.worker.ready)
        rate = ready or max((lane.rate for lane in measured), default=0.0)
        budget = max((lane.worker.token_budget for lane in self._lanes), default=0)
        return self.queue.tokens_before(flow, budget) / rate if rate else 0.0

    async def run(self, queued: QueuedInput) -> Embedded:
        """Queues an input and waits for its answer. Raises what went wrong, at once for an input
        that took workers down before."""
        await self.run_all([queued], lambda _: None)
        return queued.future.result()

    async def run_all(
        self, inputs: Sequence[QueuedInput], answered: Callable[[QueuedInput], None]
    ) -> None:
        """Queues inputs, and calls ``answered`` with each once there is a vector or an error for
        it. Whatever that raises gives up the others."""
        for queued in inputs:
            if self._suspects.is_culprit(queued.input):
                self._fail_culprits([queued])
            else:
                self.queue.put(queued)
        self._wake_all()
        waiting = {queued.future: queued for queued in inputs}
        ended: asyncio.Queue[asyncio.Future[Embedded]] = asyncio.Queue()
        for future in waiting:
            future.add_done_callback(ended.put_nowait)
        try:
            for _ in inputs:
                answered(waiting[await ended.get()])
        except BaseException:
            for queued in inputs:
                self._give_up(queued)
            self.places.hand_out()
            raise

    def withdraw(self, queued: QueuedInput, waiter: asyncio.Future[Any]) -> None:
        """Takes an input out whose ``waiter`` is done, unless it was answered. What ended the wait
        is then its outcome."""
        if queued.future.done():
            return
        error = None if waiter.cancelled() else waiter.exception()
        if isinstance(error, Exception):
            queued.fail(error)
        self._give_up(queued)
        self.places.hand_out()

    def _give_up(self, queued: QueuedInput) -> None:
        """Leaves nothing of an input in memory, and no tokens before those of others."""
        queued.give_up()
        self.queue.discard(queued)

    def close(self) -> None:
        """Stops feeding."""
        for task in list(self._tasks):
            task.cancel()

    async def _feed(self, lane: Lane) -> None:
        while True:
            lane.wake.clear()
            if not lane.worker.ready:
                lane.may_be_fresh()
            self._fail_refused()
            while (batch := self._next(lane)) is not None:
                lane.sent(batch)
                self._start(self._run(lane, batch), batch.inputs[0].context.copy())
            self.places.hand_out()
            await lane.wake.wait()

    def _fail_refused(self) -> None:
        """Answers the inputs for adapters that no worker could load."""
        first, *others = (lane.worker.refused for lane in self._lanes)
        nowhere = {name: reason for name, reason in first.items()
                   if all(name in refused for refused in others)}  # fmt: skip
        if not nowhere:
            return
        for queued in [*self.queue.remove(nowhere), *self._suspects.waiting()]:
            if reason := nowhere.get(queued.input.adapter):
                queued.fail(AdapterError(f"the version could not be loaded: {reason}"))

    def _next(self, lane: Lane) -> Batch | None:
        """The next batch for ``lane``, without the inputs that have taken a worker down since they
        were queued."""
        while (batch := self._take(lane)) is not None:
            culprits = [item for item in batch.inputs if self._suspects.is_culprit(item.input)]
            self._fail_culprits(culprits)
            batch.inputs = [queued for queued in batch.inputs if queued not in culprits]
            if batch.inputs:
                return batch
        return None

    def _take(self, lane: Lane) -> Batch | None:
        refused = lane.worker.refused
        empty = lane.worker.ready and lane.running is None
        if self._suspects.is_due(refused):
            # A suspect waits for the lane to be empty; nothing else is sent before it has run.
            if not empty:
                return None
            if (batch := self._suspects.take(refused)) is not None:
                return batch
        if lane.may_send(self.queue.has_interactive):
            # Beside one that waits there is room for an urgent one only.
            urgent = bool(lane.waiting)
            inputs = self.queue.take(lane.worker.token_budget, refused, urgent)
            if inputs:
                return Batch(inputs)
        return self._suspects.take(refused, idle=True) if empty else None

    async def _run(self, lane: Lane, batch: Batch) -> None:
        try:
            result = await lane.run(batch)
        except ServeError as error:
            self._failed(batch, error)
        except Exception as error:
            log.exception("a batch of model %s failed", self.model)
            _answer(batch.inputs, ServeError(f"the batch failed: {type(error).__name__}"))
        else:
            finite = np.isfinite(result.vectors).all(axis=1)
            _answer(
                [batch.inputs[i] for i in np.flatnonzero(~finite)],
                ServeError("the model's vector for it holds what is not a finite number"),
            )
            begun = time.monotonic() - result.seconds  # on the device, as far as we know
            for queued, vector in zip(batch.inputs, result.vectors, strict=True):
                if not queued.future.done():
                    waited = max(0.0, begun - queued.queued_at)
                    queued.future.set_result(Embedded(vector, waited, result.seconds))
            self._suspects.answered()
            self.metrics.batch(
                self.model, lane.worker.name, batch.callers, lane.worker.token_budget, result
            )
        finally:
            lane.done(batch)
            self._wake_all()

    def _failed(self, batch: Batch, error: ServeError) -> None:
        """Tries the inputs again, each so that it can only fail by itself; answers those that
        have."""
        log.warning(
            "a batch of %d of model %s failed: %s %s",
            len(batch.inputs), self.model, type(error).__name__, error,
        )  # fmt: skip
        alone = self._suspects.failed(batch, error)
        if isinstance(error, WorkerLostError):
            self._fail_culprits(alone)
        elif isinstance(error, NotFoundError):  # unloaded since it was admitted
            _answer(alone, AdapterError(str(error)))
        else:
            _answer(alone, error)

    def _fail_culprits(self, inputs: Sequence[QueuedInput]) -> None:
        self.metrics.fatal_inputs.labels(self.model).inc(len(inputs))
        _answer(inputs, ServeError("this input takes the worker down; report it"))

    def _wake_all(self) -> None:
        for lane in self._lanes:
            lane.wake.set()

    def _start(
        self, coroutine: Coroutine[None, None, None], context: contextvars.Context | None = None
    ) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _answer(inputs: Sequence[QueuedInput], error: ServeError) -> None:
    for queued in inputs:
        queued.fail(error)
