"""What waits for a device: interactive before bulk before shadow, callers in turn, each one's
oldest first."""

import asyncio
import contextvars
import functools
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Container
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from vlm2vec_service.errors import DeadlineError
from vlm2vec_service.scheduling.batch import BatchInput

SHADOW_SHARE = 0.25
"""Of the token budget, for a batch of shadow inputs: whatever comes waits for no more than that."""
BULK_EVERY = 8
"""One batch in so many is of bulk inputs, so that interactive load never starves them."""


class Flow(NamedTuple):
    """What one caller sends at one priority: it takes turns with other callers' at the same
    priority, and has places in the queue of its own."""

    caller: str
    interactive: bool


class Embedded(NamedTuple):
    """A vector, float32 ``(dim,)``, and the seconds that its input waited and ran."""

    vector: npt.NDArray[np.float32]
    queue_seconds: float
    inference_seconds: float


@dataclass(eq=False)
class QueuedInput:
    """One input that waits. ``deadline`` is in the time of ``time.monotonic``; ``context`` is the
    request's, for the trace."""

    input: BatchInput
    interactive: bool
    caller: str
    deadline: float
    future: asyncio.Future[Embedded]
    shadow: bool = False
    """Whether it is a copy that nobody waits for: it runs when there is nothing else."""
    queued_at: float = field(default_factory=time.monotonic)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @functools.cached_property
    def tokens(self) -> int:
        """What it takes of the token budget."""
        return len(self.input.prepared)

    @functools.cached_property
    def flow(self) -> Flow:
        """The flow that it is part of."""
        return Flow(self.caller, self.interactive)

    def is_dead(self) -> bool:
        """Whether nobody waits for it any more: cancelled, or its deadline passed (which is then
        its answer)."""
        if not self.future.done() and time.monotonic() >= self.deadline:
            self.future.set_exception(DeadlineError("the deadline passed in the queue"))
        return self.future.done()

    def give_up(self) -> None:
        """Notes that nobody waits for it any more."""
        if not self.future.cancel() and not self.future.cancelled():
            self.future.exception()  # which is then no error that nobody has seen

    def fail(self, error: Exception) -> None:
        """Answers with ``error``, unless there is an answer."""
        if not self.future.done():
            self.future.set_exception(error)


Level = OrderedDict[str, deque[QueuedInput]]
"""The inputs of one priority by caller; the caller whose turn it is comes first."""


class FairQueue:
    """Three levels, and in each a queue for every caller. Single-threaded: the event loop's."""

    def __init__(self) -> None:
        self._interactive: Level = OrderedDict()
        self._bulk: Level = OrderedDict()
        self._shadow: Level = OrderedDict()
        self._batches = 0
        self._tokens: Counter[Flow] = Counter()
        self.tokens = 0
        """Of what somebody will want; shadow inputs take nobody's place in the queue."""
        self.requests = 0

    def put(self, queued: QueuedInput) -> None:
        """Adds at the end of its caller's queue."""
        self._level(queued).setdefault(queued.caller, deque()).append(queued)
        if not queued.shadow:
            self._tokens[queued.flow] += queued.tokens
            self.tokens += queued.tokens
            self.requests += 1

    def tokens_of(self, flow: Flow) -> int:
        """Tokens of the inputs that wait in ``flow``."""
        return self._tokens[flow]

    def tokens_before(self, flow: Flow, token_budget: int) -> float:
        """About how many of the waiting tokens would run before a further input of ``flow``, in
        batches of ``token_budget``: its own, as many inputs of every other caller at its priority,
        and what the other priority gets meanwhile."""
        level = self._interactive if flow.interactive else self._bulk
        turns = len(level.get(flow.caller, ())) + 1
        level_tokens, before = 0, 0.0
        for caller, waiting in level.items():
            tokens = self._tokens[Flow(caller, flow.interactive)]
            level_tokens += tokens
            before += tokens * min(1.0, turns / len(waiting))
        other = self.tokens - level_tokens
        if flow.interactive:
            return before + min(other, before / (BULK_EVERY - 1))
        return before + min(other, (BULK_EVERY - 1) * (before + token_budget))

    @property
    def has_interactive(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._interactive)

    def take(
        self, token_budget: int, refused: Container[str] = (), urgent: bool = False
    ) -> list[QueuedInput]:
        """Takes the next batch: at most ``token_budget`` tokens, or one longer input by itself; an
        ``urgent`` one has interactive inputs only.

        Inputs for one of the ``refused`` adapters stay where they are. The batch is not filled up
        with bulk inputs where somebody waits for it: that would make each of them wait for a whole
        batch.
        """
        self._batches += 1
        levels = [self._interactive, self._bulk, self._shadow]
        if urgent:
            del levels[1:]
        elif self._batches % BULK_EVERY == 0:
            levels[:2] = [self._bulk, self._interactive]
        batch: list[QueuedInput] = []
        for level in levels:
            left = int(token_budget * SHADOW_SHARE) if level is self._shadow else token_budget
            while (queued := self._pop(level, left if batch else None, refused)) is not None:
                batch.append(queued)
                left -= queued.tokens
            if batch:
                return batch
        return batch

    def discard(self, queued: QueuedInput) -> None:
        """Takes out an input that nobody waits for any more, if it is there."""
        level = self._level(queued)
        if queued in level.get(queued.caller, ()):
            self._remove(level, queued)

    def remove(self, adapters: Container[str]) -> list[QueuedInput]:
        """Takes out every input for one of ``adapters``, and returns them."""
        removed = []
        for level in (self._interactive, self._bulk, self._shadow):
            for waiting in list(level.values()):
                for queued in [item for item in waiting if item.input.adapter in adapters]:
                    self._remove(level, queued)
                    removed.append(queued)
        return removed

    def _level(self, queued: QueuedInput) -> Level:
        if queued.interactive:
            return self._interactive
        return self._shadow if queued.shadow else self._bulk

    def _pop(self, level: Level, left: int | None, refused: Container[str]) -> QueuedInput | None:
        """The oldest input of the caller whose turn it is, unless it has more than ``left`` tokens.
        Cancelled and expired inputs are dropped on the way."""
        while (queued := _first(level, refused)) is not None:
            dead = queued.is_dead()
            if not dead and left is not None and queued.tokens > left:
                return None
            self._remove(level, queued)
            if queued.caller in level:
                level.move_to_end(queued.caller)
            if not dead:
                return queued
        return None

    def _remove(self, level: Level, queued: QueuedInput) -> None:
        waiting = level[queued.caller]
        if waiting[0] is queued:
            waiting.popleft()
        else:
            waiting.remove(queued)
        if not waiting:
            del level[queued.caller]
        if not queued.shadow:
            self._tokens[queued.flow] -= queued.tokens
            if not self._tokens[queued.flow]:  # callers come and go
                del self._tokens[queued.flow]
            self.tokens -= queued.tokens
            self.requests -= 1


def _first(level: Level, refused: Container[str]) -> QueuedInput | None:
    """The oldest input for none of the ``refused`` adapters, of the first caller who has one."""
    for waiting in level.values():
        for queued in waiting:
            if queued.input.adapter not in refused:
                return queued
    return None
