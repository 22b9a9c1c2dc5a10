"""One worker as the scheduler sees it: what runs there, what waits there, and for how long."""

import asyncio
import functools
import time
from collections import Counter
from dataclasses import dataclass, field

from vlm2vec_service.errors import WorkerLostError
from vlm2vec_service.scheduling.batch import BatchResult, BatchWorker
from vlm2vec_service.scheduling.fair_queue import QueuedInput

GRACE = 10.0
"""Seconds that any batch may take: a machine may be busy for a moment."""
FACTOR = 10.0
"""Times what its tokens take at the learned rate, that a batch may take beside the grace: pictures
that the vision cache does not have cost several times what their tokens say."""
FRESH = 2.0
"""By so much more time is given while a worker has not answered since it started: it then pays for
what a device does once."""
SLOWEST = 10.0
"""Tokens that a worker is taken to do in a second before its rate is learned: any device does."""


@dataclass(eq=False)
class Batch:
    """Inputs that run together. A ``suspect`` runs alone in its worker, so that the next death says
    who it was; ``deaths`` counts those that an input by itself caused as a suspect."""

    inputs: list[QueuedInput]
    suspect: bool = False
    deaths: int = 0
    waited: bool = False
    """Whether its worker died before it had begun with it."""
    begun: float = 0.0
    """When the worker's device began with it, in the time of ``time.monotonic``; 0 before."""
    clock: asyncio.Timeout | None = None
    """Ends it; without a time while it waits in the worker behind another."""

    @property
    def interactive(self) -> bool:
        """Whether somebody waits for part of it."""
        return any(queued.interactive for queued in self.inputs)

    @property
    def tokens(self) -> int:
        """Tokens of its inputs together."""
        return sum(queued.tokens for queued in self.inputs)

    @property
    def callers(self) -> dict[str, int]:
        """Tokens of each caller in it."""
        tokens: Counter[str] = Counter()
        for queued in self.inputs:
            tokens[queued.caller] += queued.tokens
        return tokens

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
    rate: float = 0.0
    """Moving average of the tokens that the worker does in a second; 0 until it is learned."""
    measured: bool = False
    """Whether a batch of an eighth of the token budget or more has taught the rate: a few tokens
    take about as long as many, and say little of how many the worker does in a second."""
    patience: float = FRESH
    """Factor of the time limit: 1 once the worker has answered since it started. It doubles with
    every batch that hangs and none that is answered between, in case all has become slow."""
    _since: float = 0.0
    """When the running batch began, as far as we know: when it was sent, or the last came back."""

    def may_send(self, urgent: bool) -> bool:
        """One batch runs and one waits in the worker, ready; an urgent one may come beside it, and
        overtakes it there."""
        if not self.worker.ready or (self.running and self.running.suspect):
            return False
        if not self.waiting:
            return True
        return urgent and len(self.waiting) == 1 and not self.waiting[0].interactive

    def sent(self, batch: Batch) -> None:
        """``batch`` is on its way."""
        if self.running is None:
            self.running, self._since = batch, time.monotonic()
            return
        self.waiting.append(batch)

    async def run(self, batch: Batch) -> BatchResult:
        """Has the worker run ``batch``, which was `sent`. Raises `ServeError`: `WorkerLostError`
        also where it took longer than its `limit`, and the worker was told that it hangs."""
        try:
            async with asyncio.timeout(None) as clock:
                batch.clock = clock
                self._set_clock()
                result = await self.worker.run(
                    [queued.input for queued in batch.inputs],
                    batch.interactive,
                    batch.callers,
                    functools.partial(self._begun, batch),
                )
        except TimeoutError as error:
            if not clock.expired():
                raise
            seconds = time.monotonic() - self._since
            self._lost(2 * self.patience)
            self.worker.hung()
            raise WorkerLostError(f"it hung: no answer after {seconds:.0f} s") from error
        except WorkerLostError:
            self._lost(self.patience)
            raise
        finally:
            batch.clock = None
        # Two that come back in the same moment took longer than the time between them.
        seconds = max(time.monotonic() - self._since, result.seconds, 1e-6)
        rate = batch.tokens / seconds
        large = 8 * batch.tokens >= self.worker.token_budget
        if self.measured and not large:
            rate = max(rate, self.rate)
        first = not self.rate or (large and not self.measured)
        self.rate = rate if first else 0.8 * self.rate + 0.2 * rate
        self.measured |= large
        self.patience = 1.0
        return result

    def _begun(self, batch: Batch) -> None:
        """The worker's device began with ``batch``, after others of ours or of other front ends."""
        batch.begun = time.monotonic()
        if batch in self.waiting and self.running is not None and not self.running.begun:
            self.waiting.remove(batch)
            self.waiting.insert(0, self.running)
            self.running = batch
        self._set_clock()

    def done(self, batch: Batch) -> None:
        """``batch`` came back: the worker goes on with the one that has begun, or as far as we know
        with an interactive one, else the oldest."""
        self._since = time.monotonic()
        if batch is not self.running:
            self.waiting.remove(batch)
        else:
            self.running = min(
                self.waiting, key=lambda one: (not one.begun, not one.interactive), default=None
            )
            if self.running is not None:
                self.waiting.remove(self.running)
        self._set_clock()

    @property
    def limit(self) -> float:
        """Seconds that the running batch may take. What waits counts with it: an interactive batch
        may have come a moment too late to overtake."""
        batches = [self.running, *self.waiting] if self.running else []
        seconds = sum(batch.tokens for batch in batches) / (self.rate or SLOWEST)
        return min(self.patience * (GRACE + FACTOR * seconds), self.worker.batch_timeout)

    def may_be_fresh(self) -> None:
        """Notes that the worker is not ready: the next batch is the first of a new process."""
        self.patience = max(self.patience, FRESH)

    def _lost(self, patience: float) -> None:
        for batch in self.waiting:
            batch.waited = not batch.begun
        if self.running is not None and self.worker.shared and not self.running.suspect:
            self.running.waited = not self.running.begun
        self.patience = max(patience, FRESH)

    def _set_clock(self) -> None:
        clock = self.running.clock if self.running else None
        if self.running is None or clock is None or clock.expired():
            return
        begun, limit = max(self.running.begun, self._since), self.limit
        if self.worker.shared and not self.running.begun:  # others' may run before it
            limit = self.worker.batch_timeout
        clock.reschedule(asyncio.get_running_loop().time() + limit - (time.monotonic() - begun))
