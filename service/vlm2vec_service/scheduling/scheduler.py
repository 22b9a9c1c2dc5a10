"""Gives the workers of one model their batches, and every request its answer."""

import asyncio
import contextvars
import logging
import time
from collections import deque
from collections.abc import Container, Coroutine, Sequence
from dataclasses import dataclass, field

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
from vlm2vec_service.scheduling.fair_queue import Embedded, FairQueue, QueuedInput

log = logging.getLogger(__name__)

CRASHES = 3
"""Times that an input may take the worker down alone before it is refused."""


@dataclass(eq=False)
class Batch:
    """Inputs that run together. A ``suspect`` was there when a worker died and runs alone, so
    that the next death says who it was; ``deaths`` counts those it suffered alone."""

    inputs: list[QueuedInput]
    suspect: bool = False
    deaths: int = 0

    @property
    def interactive(self) -> bool:
        """Whether somebody waits for part of it."""
        return any(queued.interactive for queued in self.inputs)

    @property
    def adapters(self) -> set[str]:
        """Names of the adapters that the inputs are for; the base model's is empty."""
        return {queued.input.adapter for queued in self.inputs}


@dataclass(eq=False)
class Lane:
    """One worker, what it runs, what waits in it, and how to wake the task that feeds it."""

    worker: BatchWorker
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    running: Batch | None = None
    waiting: list[Batch] = field(default_factory=list)
    last_done: float = 0.0

    def may_send(self, urgent: bool) -> bool:
        """One batch runs and one waits in the worker, ready; an urgent one may overtake it."""
        if not self.worker.ready or (self.running and self.running.suspect):
            return False
        if not self.waiting:
            return True
        return urgent and len(self.waiting) == 1 and not self.waiting[0].interactive

    def sent(self, batch: Batch) -> None:
        """``batch`` is on its way."""
        if self.running is None:
            self.running = batch
        else:
            self.waiting.append(batch)

    def done(self, batch: Batch) -> None:
        """``batch`` came back: the worker goes on with an interactive one, else the oldest."""
        if batch is not self.running:
            self.waiting.remove(batch)
            return
        self.running = min(self.waiting, key=lambda item: not item.interactive, default=None)
        if self.running is not None:
            self.waiting.remove(self.running)


class Scheduler:
    """One queue for the workers of one model. Single-threaded: the event loop's."""

    def __init__(self, model: str, max_requests: int, max_tokens: int, metrics: Metrics) -> None:
        self.model = model
        self.max_requests = max_requests
        self.max_tokens = max_tokens
        self.metrics = metrics
        self.queue = FairQueue()
        self.pending = 0
        self._suspects: deque[Batch] = deque()
        self._lanes: list[Lane] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._tokens_per_second = 0.0
        self._room = asyncio.Event()
        metrics.refused.labels(model)
        metrics.pending.labels(model).set_function(lambda: self.pending)
        metrics.queue_requests.labels(model).set_function(lambda: self.queue.requests)
        metrics.queue_tokens.labels(model).set_function(lambda: self.queue.tokens)

    def add_worker(self, worker: BatchWorker) -> Lane:
        """Starts feeding ``worker``; ``wake`` of the lane has to be set whenever it gets ready."""
        lane = Lane(worker)
        self._lanes.append(lane)
        self._start(self._feed(lane))
        return lane

    def admit(self, deadline: float, inputs: int = 1) -> None:
        """Counts ``inputs`` more in, until `release`.

        Raises `ExhaustedError` with a hint when the queue is full, or so long that the deadline (in
        the time of ``time.monotonic``) would pass in it; `DeadlineError` when it has passed.
        """
        now = time.monotonic()
        if now >= deadline:
            raise DeadlineError("the deadline passed before there was a place in the queue")
        wait = self.expected_wait()
        if not self._has_room:
            self.metrics.refused.labels(self.model).inc(inputs)
            raise ExhaustedError(
                f"the queue is full: {self.pending} requests (max_queue_requests "
                f"{self.max_requests}), {self.queue.tokens} tokens (max_queue_tokens "
                f"{self.max_tokens})",
                retry_after=min(max(wait / 2, 0.1), 30.0),
            )
        if now + wait > deadline:
            self.metrics.refused.labels(self.model).inc(inputs)
            raise ExhaustedError(
                f"the queue takes about {wait:.2g} s, longer than the deadline allows",
                retry_after=min(wait, 30.0),
            )
        self.pending += inputs

    def release(self, inputs: int = 1) -> None:
        """The counterpart of `admit`, once there is an answer."""
        self.pending -= inputs
        if self._has_room:
            self._room.set()

    async def room(self) -> None:
        """Waits until `admit` finds the queue below its limits."""
        while not self._has_room:
            self._room.clear()
            await self._room.wait()

    @property
    def _has_room(self) -> bool:
        return self.pending < self.max_requests and self.queue.tokens < self.max_tokens

    def expected_wait(self) -> float:
        """Seconds until what is queued now has run, by the rate of the last batches."""
        rate = self._tokens_per_second * max(1, sum(lane.worker.ready for lane in self._lanes))
        return self.queue.tokens / rate if rate else 0.0

    async def run(self, queued: QueuedInput) -> Embedded:
        """Queues an input and waits for its answer. Raises what went wrong."""
        self.queue.put(queued)
        self._wake_all()
        return await queued.future

    def close(self) -> None:
        """Stops feeding."""
        for task in list(self._tasks):
            task.cancel()

    async def _feed(self, lane: Lane) -> None:
        while True:
            lane.wake.clear()
            self._fail_refused()
            while (batch := self._next(lane)) is not None:
                lane.sent(batch)
                self._start(self._run(lane, batch), batch.inputs[0].context.copy())
            await lane.wake.wait()

    def _fail_refused(self) -> None:
        """Answers the inputs for adapters that no worker could load."""
        first, *others = (lane.worker.refused for lane in self._lanes)
        nowhere = {name: reason for name, reason in first.items()
                   if all(name in refused for refused in others)}  # fmt: skip
        if not nowhere:
            return
        suspects = [queued for batch in self._suspects for queued in batch.inputs]
        for queued in [*self.queue.remove(nowhere), *suspects]:
            if reason := nowhere.get(queued.input.adapter):
                queued.fail(AdapterError(f"the version could not be loaded: {reason}"))

    def _next(self, lane: Lane) -> Batch | None:
        refused = lane.worker.refused
        if any(not refused.keys() >= batch.adapters for batch in self._suspects):
            # A suspect waits for the lane to be empty; nothing else is sent before it has run.
            if lane.running or not lane.worker.ready:
                return None
            if (batch := self._next_suspect(refused)) is not None:
                return batch
        if not lane.may_send(self.queue.has_interactive):
            return None
        inputs = self.queue.take(lane.worker.token_budget, refused)
        return Batch(inputs) if inputs else None

    def _next_suspect(self, refused: Container[str]) -> Batch | None:
        """The oldest suspect, without the inputs for ``refused`` adapters, which stay suspects."""
        for _ in range(len(self._suspects)):
            batch = self._suspects.popleft()
            alive = [queued for queued in batch.inputs if not queued.is_dead()]
            batch.inputs = [queued for queued in alive if queued.input.adapter not in refused]
            if elsewhere := [queued for queued in alive if queued.input.adapter in refused]:
                self._suspects.append(Batch(elsewhere, suspect=True, deaths=batch.deaths))
            if batch.inputs:
                return batch
        return None

    async def _run(self, lane: Lane, batch: Batch) -> None:
        tokens = sum(queued.tokens for queued in batch.inputs)
        started = time.monotonic()
        try:
            result = await lane.worker.run(
                [queued.input for queued in batch.inputs], batch.interactive
            )
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
            for queued, vector in zip(batch.inputs, result.vectors, strict=True):
                if not queued.future.done():
                    # From the queue to the vector, less the time on the device.
                    waited = max(0.0, time.monotonic() - queued.queued_at - result.seconds)
                    queued.future.set_result(Embedded(vector, waited, result.seconds))
            self._learn(lane, tokens, started)
            self.metrics.batch(
                self.model, lane.worker.name, tokens, lane.worker.token_budget, result
            )
        finally:
            lane.done(batch)
            self._wake_all()

    def _learn(self, lane: Lane, tokens: int, started: float) -> None:
        """Keeps a moving average of the tokens that a worker does in a second."""
        now = time.monotonic()
        rate = tokens / max(now - max(started, lane.last_done), 1e-6)
        lane.last_done = now
        known = self._tokens_per_second
        self._tokens_per_second = 0.8 * known + 0.2 * rate if known else rate

    def _failed(self, batch: Batch, error: ServeError) -> None:
        """Retries a batch whose worker died once as it was, then by halves, so that an input that
        kills workers fails alone; so does one that raises an error."""
        died = isinstance(error, WorkerLostError)
        log.warning(
            "a batch of %d of model %s failed: %s %s",
            len(batch.inputs), self.model, type(error).__name__, error,
        )  # fmt: skip
        if died and not batch.suspect:
            self._suspects.append(Batch(batch.inputs, suspect=True))
        elif len(batch.inputs) > 1:
            middle = len(batch.inputs) // 2
            for part in (batch.inputs[:middle], batch.inputs[middle:]):
                self._suspects.append(Batch(part, suspect=True))
        elif died and batch.deaths + 1 < CRASHES:
            self._suspects.append(Batch(batch.inputs, suspect=True, deaths=batch.deaths + 1))
        elif died:
            _answer(batch.inputs, ServeError("this input takes the worker down; report it"))
        elif isinstance(error, NotFoundError):  # unloaded since it was admitted
            _answer(batch.inputs, AdapterError(str(error)))
        else:
            _answer(batch.inputs, error)

    def _wake_all(self) -> None:
        for lane in self._lanes:
            lane.wake.set()

    def _start(
        self, coroutine: Coroutine[None, None, None], context: contextvars.Context | None = None
    ) -> None:
        task = asyncio.create_task(coroutine, context=context)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _answer(inputs: Sequence[QueuedInput], error: ServeError) -> None:
    for queued in inputs:
        queued.fail(error)
