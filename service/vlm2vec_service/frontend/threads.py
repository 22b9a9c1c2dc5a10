"""Threads that preprocess, and whose turn it is to get one."""

import asyncio
import contextlib
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from vlm2vec_service.preprocess.stop import Stop
from vlm2vec_service.scheduling.fair_queue import BULK_EVERY, Flow
from vlm2vec_service.scheduling.shares import Shares

T = TypeVar("T")
LEFT_FREE = 2
"""Threads that only those take who have none: no two callers together have them all."""


class Threads(Shares):
    """Shares of threads: ``most`` for one caller, and `LEFT_FREE` more, which are there for others.

    Interactive flows come before bulk ones, but for one turn in `BULK_EVERY`; those of one priority
    take turns.
    """

    def __init__(self, name: str, most: int) -> None:
        super().__init__(most + LEFT_FREE)
        self._pool = ThreadPoolExecutor(self.most, thread_name_prefix=name)
        self._turns = 0

    def has_room(self, flow: Flow, amount: int = 1) -> bool:
        """Whether a thread is free that the caller of ``flow`` may have."""
        has_some = any(self.taken_by(Flow(flow.caller, priority)) for priority in (True, False))
        return self.most - self.taken > (LEFT_FREE if has_some else 0)

    def take(self, flow: Flow, amount: int = 1) -> None:
        """Takes a thread, free or not."""
        super().take(flow, amount)
        self._turns += 1

    def hand_out(self) -> None:
        """Serves who waits, as long as a thread is free that one of them may have."""
        served = True
        while served and self.taken < self.most:
            bulk_first = self._turns % BULK_EVERY == BULK_EVERY - 1
            flows = sorted(self._waiting, key=lambda flow: flow.interactive is bulk_first)
            served = any(self._serve(flow) for flow in flows)

    async def run(self, flow: Flow, stop: Stop, work: Callable[[], T]) -> T:
        """Runs ``work`` in a thread as soon as ``flow`` has one, and raises what it raises.

        The time of ``stop`` starts with it, and if the caller is cancelled ``stop`` is, too: the
        thread is another's once ``work`` has ended.
        """
        await self.wait(flow)
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def ended(worked: Future[T]) -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(tell, worked)

        def tell(worked: Future[T]) -> None:
            self.give_back(flow)
            if outcome.done():  # cancelled
                return
            if (error := worked.exception()) is not None:
                outcome.set_exception(error)
            else:
                outcome.set_result(worked.result())

        stop.start()
        self._pool.submit(work).add_done_callback(ended)
        try:
            return await outcome
        except asyncio.CancelledError:
            stop.cancel()
            raise
