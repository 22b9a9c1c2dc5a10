"""What waits for a device: interactive before bulk before shadow, callers in turn, each one's
oldest first."""

import asyncio
import contextvars
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from vlm2vec_service.errors import DeadlineError
from vlm2vec_service.preprocess.prepared import Prepared

SHADOW_SHARE = 0.25
"""Of the token budget, for a batch of shadow work: whatever comes waits no longer than for that."""
BULK_EVERY = 8
"""One batch in so many is of bulk work, so that interactive load never starves it."""


@dataclass(frozen=True)
class Done:
    """A vector, float32 ``(dim,)``, and the seconds it waited and ran."""

    vector: npt.NDArray[np.float32]
    queue_seconds: float
    inference_seconds: float


@dataclass(eq=False)
class Work:
    """One prepared input that waits. ``adapter`` is empty for the base model; ``deadline`` is in
    the time of ``time.monotonic``. ``context`` is the request's, for the trace."""

    prepared: Prepared
    adapter: str
    normalize: bool | None
    interactive: bool
    caller: str
    deadline: float
    future: asyncio.Future[Done]
    shadow: bool = False
    """A copy that nobody waits for: it runs when there is nothing else."""
    queued_at: float = field(default_factory=time.monotonic)
    context: contextvars.Context = field(default_factory=contextvars.copy_context)

    @property
    def tokens(self) -> int:
        """What it takes of the token budget."""
        return len(self.prepared)

    def is_dead(self) -> bool:
        """Whether nobody waits for it any more: cancelled, or its deadline passed (which is then
        its answer)."""
        if not self.future.done() and time.monotonic() >= self.deadline:
            self.future.set_exception(DeadlineError("the deadline passed in the queue"))
        return self.future.done()


class FairQueue:
    """Three levels, and in each a queue for every caller. Single-threaded: the event loop's."""

    def __init__(self) -> None:
        self._interactive: OrderedDict[str, deque[Work]] = OrderedDict()
        self._bulk: OrderedDict[str, deque[Work]] = OrderedDict()
        self._shadow: OrderedDict[str, deque[Work]] = OrderedDict()
        self._batches = 0
        self.tokens = 0
        """Of what somebody will want; shadow work takes nobody's place in the queue."""
        self.requests = 0

    def put(self, work: Work) -> None:
        """Adds at the end of its caller's queue."""
        wait = self._shadow if work.shadow else self._bulk
        level = self._interactive if work.interactive else wait
        level.setdefault(work.caller, deque()).append(work)
        if not work.shadow:
            self.tokens += work.tokens
            self.requests += 1

    @property
    def has_interactive(self) -> bool:
        """Whether somebody waits for an answer."""
        return bool(self._interactive)

    def take(self, token_budget: int) -> list[Work]:
        """The next batch: at most ``token_budget`` tokens, or one longer input by itself.

        It is not filled up with bulk work where somebody waits for it: that would make each of
        them wait for a whole batch.
        """
        self._batches += 1
        levels = [self._interactive, self._bulk, self._shadow]
        if self._batches % BULK_EVERY == 0:
            levels[:2] = [self._bulk, self._interactive]
        batch: list[Work] = []
        for level in levels:
            left = int(token_budget * SHADOW_SHARE) if level is self._shadow else token_budget
            while (work := self._pop(level, left if batch else None)) is not None:
                batch.append(work)
                left -= work.tokens
            if batch:
                return batch
        return batch

    def _pop(self, level: OrderedDict[str, deque[Work]], left: int | None) -> Work | None:
        """The oldest work of the caller whose turn it is, unless it has more than ``left`` tokens.
        Cancelled and expired work is dropped on the way."""
        while level:
            caller, waiting = next(iter(level.items()))
            work = waiting[0]
            dead = work.is_dead()
            if not dead and left is not None and work.tokens > left:
                return None
            waiting.popleft()
            level.move_to_end(caller)
            if not waiting:
                del level[caller]
            if not work.shadow:
                self.tokens -= work.tokens
                self.requests -= 1
            if not dead:
                return work
        return None
