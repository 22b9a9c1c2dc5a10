"""Which of the batches that wait in a worker runs next, whoever sent them."""

from collections.abc import Mapping
from typing import Generic, Protocol, TypeVar

from vlm2vec_service.scheduling.fair_queue import BULK_EVERY


class Waiting(Protocol):
    """What waits: whether somebody waits for it, and its tokens by caller."""

    @property
    def interactive(self) -> bool:
        """Whether it goes before what is not."""

    @property
    def callers(self) -> Mapping[str, int]:
        """The tokens of each caller in it."""


B = TypeVar("B", bound=Waiting)


class _Level(Generic[B]):
    """The batches of one priority, and the tokens that each caller was served.

    A caller's account starts at those of the others (start-time fair queueing, Goyal et al. 1996):
    who comes late has no claim on what others were given before.
    """

    def __init__(self) -> None:
        self.waiting: list[B] = []
        self._served: dict[str, float] = {}
        self._now = 0.0

    def first(self) -> B:
        """The batch whose callers were served least; of equals the one that came first."""
        return min(self.waiting, key=self._start)

    def take(self) -> B:
        batch = self.first()
        self.waiting.remove(batch)
        self._now = max(self._now, self._start(batch))
        for caller, tokens in batch.callers.items():
            self._served[caller] = self._account(caller) + tokens
        self._served = {name: served for name, served in self._served.items() if served > self._now}
        return batch

    def _account(self, caller: str) -> float:
        return max(self._served.get(caller, 0.0), self._now)

    def _start(self, batch: B) -> float:
        """Mean of what its callers were served, each by its tokens in the batch."""
        tokens = sum(batch.callers.values())
        served = sum(self._account(caller) * count for caller, count in batch.callers.items())
        return served / tokens if tokens else self._now


class Turns(Generic[B]):
    """The order of batches: interactive ones first, but where others wait at most for as long as
    leaves one part in `BULK_EVERY` of the time to these; within a priority callers get equal shares
    of the tokens, through however many front ends they come."""

    def __init__(self) -> None:
        self._interactive: _Level[B] = _Level()
        self._bulk: _Level[B] = _Level()
        self._bulk_seconds = 0.0
        """What the last batch that was not interactive took."""
        self._interactive_seconds = 0.0
        """What interactive ones took since."""

    def __len__(self) -> int:
        return len(self._interactive.waiting) + len(self._bulk.waiting)

    def put(self, batch: B) -> None:
        """Adds a batch."""
        self._level_of(batch).waiting.append(batch)

    def peek(self) -> B | None:
        """The batch that `take` would give now."""
        level = self._next_level()
        return level.first() if level.waiting else None

    def take(self) -> B | None:
        """Takes the next batch out; None where none waits."""
        level = self._next_level()
        if not level.waiting:
            return None
        return level.take()

    def ran(self, batch: B, seconds: float) -> None:
        """Notes how long a batch took on the device."""
        if batch.interactive:
            self._interactive_seconds += seconds
        else:
            self._bulk_seconds, self._interactive_seconds = seconds, 0.0

    def discard(self, batch: B) -> None:
        """Takes a batch out that is not to run, if it waits."""
        waiting = self._level_of(batch).waiting
        if batch in waiting:
            waiting.remove(batch)

    def _level_of(self, batch: B) -> _Level[B]:
        return self._interactive if batch.interactive else self._bulk

    def _next_level(self) -> _Level[B]:
        bulk_first = self._interactive_seconds > (BULK_EVERY - 1) * self._bulk_seconds
        first, second = self._interactive, self._bulk
        if bulk_first:
            first, second = second, first
        return first if first.waiting else second
