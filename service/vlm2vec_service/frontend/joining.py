"""Calls of one short text each that are answered together, while there are more than go one by one.

What is prepared, queued and answered together takes the event loop a fraction of the time. For that
a call waits a few milliseconds for others, but only where others like it are under way and the loop
has no time to lose: with more calls than it gets done, each waits far longer for its turn.
"""

import asyncio
import functools
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Hashable
from dataclasses import dataclass, field, replace

from vlm2vec_service.errors import DeadlineError
from vlm2vec_service.frontend.loop import is_busy
from vlm2vec_service.frontend.preparation import MOST_TOGETHER, SHORT_BYTES, Bundle
from vlm2vec_service.frontend.request import Answer, Asked, Caller, Route

WAIT_SECONDS = 0.004
"""How long the first call waits for others."""
MOST_BYTES = SHORT_BYTES // MOST_TOGETHER
"""Of a text that may be joined to others."""


@dataclass
class _Joined:
    """Calls that wait for each other. ``caller`` is the first of them, ``deadline`` the last."""

    route: Route
    caller: Caller
    deadline: float
    inputs: list[Asked] = field(default_factory=list)
    nbytes: int = 0


class Joining:
    """Joins calls of one flow that ask the same of the same version. ``embed`` answers a bundle
    that was admitted."""

    def __init__(
        self, embed: Callable[[Bundle, Route, Caller], Coroutine[None, None, None]]
    ) -> None:
        self.pays = is_busy
        """Whether joining is worth the wait."""
        self._embed = embed
        self._joined: dict[Hashable, _Joined] = {}
        self._under_way: Counter[Hashable] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def takes(self, bundle: Bundle) -> bool:
        """Whether ``bundle``, all that a call asks for, should be joined to others now."""
        return (
            bundle.is_short
            and len(bundle.inputs) == 1
            and bundle.nbytes <= MOST_BYTES
            and self.pays()
        )

    async def answer(self, bundle: Bundle, route: Route, caller: Caller) -> None:
        """Gives the one input of ``bundle`` its outcome, and takes as long as that. Raises
        `DeadlineError`, or whatever else is the outcome."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[Answer] = loop.create_future()
        late = DeadlineError("the deadline passed before it was answered")
        timer = loop.call_later(caller.deadline - time.monotonic(), _tell, waiter, late)
        (asked,) = bundle.inputs
        joined = Asked(asked.field, asked.message, functools.partial(_tell, waiter), waiter)
        options = route.options.SerializeToString()
        key = (
            route.served.model.name, route.version.key, options, route.flow(caller), caller.quota
        )  # fmt: skip
        self._join(key, joined, bundle.nbytes, route, caller)
        self._under_way[key] += 1
        try:
            answer = await waiter
        finally:
            timer.cancel()
            self._under_way[key] -= 1
            if not self._under_way[key]:  # callers come and go
                del self._under_way[key]
        if caller.call is not None:
            caller.call.tokens += answer.tokens
        asked.give(answer)

    def _join(self, key: Hashable, asked: Asked, nbytes: int, route: Route, caller: Caller) -> None:
        joined = self._joined.get(key)
        if joined is None:
            joined = self._joined[key] = _Joined(route, caller, caller.deadline)
            asyncio.get_running_loop().call_later(WAIT_SECONDS, self._start, key, joined)
        joined.inputs.append(asked)
        joined.nbytes += nbytes
        joined.deadline = max(joined.deadline, caller.deadline)
        if not self._under_way[key] or len(joined.inputs) == MOST_TOGETHER:
            self._start(key, joined)

    def _start(self, key: Hashable, joined: _Joined) -> None:
        """Starts to answer what was joined, unless that was done."""
        if self._joined.get(key) is joined:
            del self._joined[key]
            task = asyncio.create_task(self._answer(joined))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, joined: _Joined) -> None:
        caller = replace(joined.caller, deadline=joined.deadline, call=None)
        bundle = Bundle(joined.inputs, "text", True, joined.nbytes)
        try:
            await self._embed(bundle, joined.route, caller)
        except Exception as error:  # noqa: BLE001 (every call gets an answer)
            for asked in bundle.inputs:
                asked.give(error)


def _tell(waiter: asyncio.Future[Answer], outcome: Answer | Exception) -> None:
    if waiter.done():
        return
    if isinstance(outcome, Exception):
        waiter.set_exception(outcome)
    else:
        waiter.set_result(outcome)
