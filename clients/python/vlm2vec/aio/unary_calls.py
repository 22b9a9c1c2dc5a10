"""Unary calls of one request after the other, some of which are ahead."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from typing import Any, TypeVar

from vlm2vec.unary_requests import calls_at_once

Request = TypeVar("Request")
Response = TypeVar("Response")


async def in_turn(
    requests: Iterator[Request], call: Callable[[Request], Coroutine[Any, Any, Response]]
) -> AsyncGenerator[tuple[Request, Response], None]:
    """Yields each request with its answer, in order; some are sent before it is their turn.

    ``call`` sends a request and waits for the answer; ``requests`` are made in a thread. Closing
    the generator cancels what was sent. Raises what ``call`` and ``requests`` raise.
    """
    tasks: deque[tuple[Request, asyncio.Task[Response]]] = deque()
    at_once = 1
    try:
        while (request := await asyncio.to_thread(next, requests, None)) is not None:
            tasks.append((request, asyncio.create_task(call(request))))
            while len(tasks) >= at_once:
                begin = time.monotonic()
                response = await tasks[0][1]
                at_once = calls_at_once(time.monotonic() - begin)
                yield tasks.popleft()[0], response
        while tasks:
            response = await tasks[0][1]
            yield tasks.popleft()[0], response
    finally:
        for _, task in tasks:
            task.cancel()
        await asyncio.gather(*(task for _, task in tasks), return_exceptions=True)
