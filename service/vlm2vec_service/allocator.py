"""Gives freed memory back to the operating system, where the C library would keep it.

glibc maps a large block by itself and unmaps it when it is freed; but each one that is freed raises
the size from which it does so, up to 32 MiB. So after a burst of pictures it keeps nearly all that
the burst took. Other C libraries have no such functions and are left alone.
"""

import contextlib
import ctypes
import gc
import threading
import time
from collections.abc import Iterator

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
"""glibc's numbers of the parameters."""
KEPT_FREE = 1 << 26
"""Bytes that may lie free at the end of a heap until they are given back with all the rest: by
default 128 KiB, so that every picture's memory came from the system anew, a page at a time."""
MAPPED_FROM = 1 << 20
"""Bytes of the smallest block that is mapped by itself: below it are a request's many small
objects, above it pictures and messages, for which a few system calls cost little."""
KEPT_BLOCK = 1 << 25
"""Bytes of the largest block that a process that computes keeps: the most that glibc allows."""
KEPT_FOR_BATCHES = 1 << 30
"""What may lie free there: more than a batch takes in such blocks."""
SECONDS = 10.0
"""Between two times that memory is given back."""


def unmap_large_blocks() -> None:
    """Has every block of `MAPPED_FROM` bytes or more given back as soon as it is freed, and smaller
    ones kept until `trim_regularly`: not for a process that computes, whose results are blocks of
    such sizes. To be called once, when the process starts."""
    _set(mapped_from=MAPPED_FROM, kept_free=KEPT_FREE)


def keep_blocks() -> None:
    """Has what a batch took kept for the next until `trim_regularly`: a process that computes needs
    blocks of the same sizes again and again, which the system would find a page at a time. To be
    called once, when the process starts."""
    _set(mapped_from=KEPT_BLOCK, kept_free=KEPT_FOR_BATCHES)


def trim_regularly(collect: bool = False) -> None:
    """Starts a thread that gives back what lies free between smaller blocks every so often, as long
    as the process lives.

    With ``collect`` on it first has Python look for cycles of objects, each of which may keep a
    request: by itself Python looks after so many objects, however large they are, and in a process
    that nobody asks never.
    """
    threading.Thread(target=_trim_for_ever, args=(collect,), name="trim", daemon=True).start()


def keep_for_ever() -> None:
    """Takes what there is now for what will always be there: looking for cycles takes milliseconds
    then, not tenths of seconds in which nothing else runs."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def keeping_for_ever() -> Iterator[None]:
    """Takes what the block makes, as by importing large packages, for what will always be there.

    Looking for cycles among thousands of modules takes a tenth of the import meanwhile, and once
    more a second when the process ends.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if enabled:
            gc.enable()


def _set(mapped_from: int, kept_free: int) -> None:
    with contextlib.suppress(AttributeError):
        library = ctypes.CDLL(None)
        library.mallopt(M_MMAP_THRESHOLD, mapped_from)
        library.mallopt(M_TRIM_THRESHOLD, kept_free)


def _trim_for_ever(collect: bool) -> None:
    trim = getattr(ctypes.CDLL(None), "malloc_trim", lambda _: None)
    while True:
        time.sleep(SECONDS)
        if collect:
            gc.collect()
        trim(0)
