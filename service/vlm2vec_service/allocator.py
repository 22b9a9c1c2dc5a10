"""Gives freed memory back to the operating system, where the C library would keep it.

glibc maps a large block by itself and unmaps it when it is freed; but each one that is freed raises
the size from which it does so, up to 32 MiB. So after a burst of pictures it keeps nearly all that
the burst took. Other C libraries have no such functions and are left alone.
"""

import asyncio
import contextlib
import ctypes

M_MMAP_THRESHOLD = -3
"""glibc's number of the parameter."""
MAPPED_FROM = 1 << 20
"""Bytes of the smallest block that is mapped by itself: below it are a request's many small
objects, above it pictures and messages, for which a few system calls cost little."""
SECONDS = 10.0
"""Between two looks for memory to give back."""


def unmap_large_blocks() -> None:
    """Has every block of `MAPPED_FROM` bytes given back as soon as it is freed. To be called once,
    when the process starts."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, MAPPED_FROM)


async def trim_regularly(seconds: float = SECONDS) -> None:
    """Gives back what lies free between smaller blocks, every so many ``seconds``, for ever."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    while True:
        await asyncio.sleep(seconds)
        if trim is not None:
            await asyncio.to_thread(trim, 0)
