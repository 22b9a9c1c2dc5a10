"""How late the event loop is: while it stands still, every caller waits."""

import asyncio

from vlm2vec_service.metrics import Metrics

SECONDS = 0.02
"""Between two looks."""


async def watch_loop(metrics: Metrics) -> None:
    """Observes for ever how much later than asked the event loop goes on with this."""
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + SECONDS
        await asyncio.sleep(SECONDS)
        metrics.loop_delay.observe(max(0.0, loop.time() - due))
