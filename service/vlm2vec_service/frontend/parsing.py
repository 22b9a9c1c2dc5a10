"""Parsing beside the event loop, which answers others meanwhile."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")

SMALL = 65_536
"""Bytes that the event loop parses itself: whatever they are takes it a few milliseconds, and a
thread would take longer."""

_threads = ThreadPoolExecutor(2, thread_name_prefix="parse")


async def parsed(parse: Callable[[], T], size: int) -> T:
    """Runs ``parse``, which reads ``size`` bytes that a caller sent: in a thread if that is a lot.

    A thread helps only as far as ``parse`` comes back to Python's interpreter, so it has to count
    what it gives to a parser in C. Raises what ``parse`` raises.
    """
    if size <= SMALL:
        return parse()
    return await asyncio.get_running_loop().run_in_executor(_threads, parse)
