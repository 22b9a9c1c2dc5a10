"""The event loop: how long it has nothing to do, and how late it is when it has."""

import asyncio
import selectors
import time

from vlm2vec_service.metrics import Metrics

SECONDS = 0.02
"""Between two looks at how late it is."""
BUSY = 0.7
"""The share of the time from which on it has much to do."""
LOOK_SECONDS = 0.1
"""Between two looks at how much it has to do."""


class _Selector(selectors.DefaultSelector):
    """Counts the seconds for which it waits."""

    waited = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        """Waits for at most ``timeout`` seconds, as any selector."""
        if timeout is not None and timeout <= 0:
            return super().select(timeout)
        began = time.monotonic()
        ready = super().select(timeout)
        self.waited += time.monotonic() - began
        return ready


class FrontEndLoop(asyncio.SelectorEventLoop):
    """asyncio's own, which knows for how many ``idle_seconds`` it had nothing to do."""

    def __init__(self) -> None:
        self._waiting = _Selector()
        super().__init__(self._waiting)
        self._at = self._idle = 0.0
        self._busy = False

    @property
    def idle_seconds(self) -> float:
        """Seconds since it was made in which it waited."""
        return self._waiting.waited

    def is_busy(self) -> bool:
        """Whether it has lately had something to do for more than `BUSY` of the time."""
        now = time.monotonic()
        if (seconds := now - self._at) >= LOOK_SECONDS:
            idle = self.idle_seconds
            self._busy = idle - self._idle < (1 - BUSY) * seconds
            self._at, self._idle = now, idle
        return self._busy


def is_busy() -> bool:
    """Whether the running loop is a `FrontEndLoop` that is busy."""
    loop = asyncio.get_running_loop()
    return isinstance(loop, FrontEndLoop) and loop.is_busy()


async def watch_loop(metrics: Metrics) -> None:
    """Observes for ever how much later than asked the event loop goes on with this, and how long it
    has nothing to do."""
    loop = asyncio.get_running_loop()
    idle = 0.0
    while True:
        due = loop.time() + SECONDS
        await asyncio.sleep(SECONDS)
        metrics.loop_delay.observe(max(0.0, loop.time() - due))
        if isinstance(loop, FrontEndLoop):
            metrics.loop_idle.inc(loop.idle_seconds - idle)
            idle = loop.idle_seconds
