"""Tasks that last as long as the process: what takes one down is told, and it starts again."""

import asyncio
import contextlib
import functools
import logging
import threading
from collections.abc import Awaitable, Callable
from typing import TypeVar

from vlm2vec_service.metrics import Metrics

log = logging.getLogger(__name__)

FIRST_PAUSE, LAST_PAUSE = 0.1, 30.0
"""Seconds before a task that died is started again; doubled each time it dies within `HEALTHY`."""
HEALTHY = 60.0

T = TypeVar("T")


def supervised(
    name: str, run: Callable[[], Awaitable[None]], metrics: Metrics
) -> asyncio.Task[None]:
    """Runs ``run``, which is to last for ever, as a task called ``name``, one of a fixed set.

    An exception is logged as an ERROR and counted, and ``run`` is called again after a pause. The
    task ends when it is cancelled.
    """
    metrics.task_deaths.labels(name)  # from 0, for alerts

    async def forever() -> None:
        pause = FIRST_PAUSE
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await run()
            except Exception:
                log.exception("task %s died; again in %.1f s", name, pause)
            else:
                log.error("task %s ended; again in %.1f s", name, pause)
            metrics.task_deaths.labels(name).inc()
            await asyncio.sleep(pause)
            lasted = asyncio.get_running_loop().time() - started
            pause = FIRST_PAUSE if lasted > HEALTHY else min(2 * pause, LAST_PAUSE)

    return asyncio.create_task(forever(), name=name)


async def in_daemon_thread(function: Callable[[], T]) -> T:
    """Runs ``function`` in a thread that nobody waits for when the process ends: what it asks may
    hang for minutes. Raises what ``function`` raises."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Callable[[], None]) -> None:
        if not future.done():
            outcome()

    def work() -> None:
        try:
            outcome = functools.partial(future.set_result, function())
        except Exception as error:  # noqa: BLE001 (whoever waits raises it)
            outcome = functools.partial(future.set_exception, error)
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(settle, outcome)

    threading.Thread(target=work, daemon=True, name=getattr(function, "__name__", "daemon")).start()
    return await future
