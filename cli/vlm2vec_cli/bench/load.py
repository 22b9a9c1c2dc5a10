"""When requests are sent: so many at a time, or by the clock; and how long their answers take."""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

Send = Callable[[], Awaitable[str]]
"""Sends a request and waits for its answer: empty, or the code of its error."""
clock = time.perf_counter


@dataclass
class Outcome:
    """What came of a load: the seconds that each answered request took, the codes of the others,
    and the seconds that all of it took. A request has so many ``inputs``."""

    load: str
    inputs: int = 1
    offered: float | None = None
    """Inputs that were sent in a second, where the clock decided that."""
    latencies: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def rate(self) -> float:
        """Inputs that were answered in a second."""
        return len(self.latencies) * self.inputs / self.seconds if self.seconds else 0.0

    def percentile(self, share: float) -> float:
        """The seconds within which a ``share`` of the answers came; NaN where there are none."""
        ordered = sorted(self.latencies)
        return (
            ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")
        )

    def note(self, sent: float, code: str) -> None:
        """Notes the answer to a request that was sent, or should have been, at ``sent``."""
        if code:
            self.errors[code] += 1
        else:
            self.latencies.append(clock() - sent)


async def closed(send: Send, at_once: int, seconds: float, inputs: int = 1) -> Outcome:
    """Keeps ``at_once`` requests under way for so many ``seconds``: each caller sends the next when
    the last is answered, so that a slow server is asked less."""
    outcome = Outcome(f"closed, {at_once} at once", inputs)
    start = clock()

    async def caller() -> None:
        while (sent := clock()) < start + seconds:
            outcome.note(sent, await send())

    await asyncio.gather(*(caller() for _ in range(at_once)))
    outcome.seconds = clock() - start
    return outcome


async def opened(send: Send, rate: float, seconds: float, inputs: int = 1) -> Outcome:
    """Sends ``rate`` inputs a second by the clock, whether or not the server keeps up. Latency
    counts from when a request was due, so that what waits behind a slow one is seen to wait."""
    outcome = Outcome(f"open, {rate:g}/s", inputs, rate)
    start = clock()

    async def one(due: float) -> None:
        outcome.note(due, await send())

    async with asyncio.TaskGroup() as tasks:
        async for due in arrivals(rate / inputs, seconds):
            tasks.create_task(one(due))
    outcome.seconds = max(clock() - start, seconds)
    return outcome


async def arrivals(rate: float, seconds: float, seed: int = 0) -> AsyncIterator[float]:
    """Yields when each request is due, as soon as it is: on average ``rate`` a second, each
    independent of the others, the same times for a ``seed``."""
    dice = random.Random(seed)
    start = clock()
    due = start + dice.expovariate(rate)
    while due < start + seconds:
        await asyncio.sleep(due - clock())
        yield due
        due += dice.expovariate(rate)


async def at_any_time(seconds: float) -> AsyncIterator[float]:
    """Yields the time whenever it is asked, for so many ``seconds``."""
    end = clock() + seconds
    while (now := clock()) < end:
        yield now
