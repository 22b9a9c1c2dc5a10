"""Threads for what may wait: loading goes on beside requests, and gives way to them."""

import contextlib
import os
import threading

NICENESS = 10
"""On Linux: what answers requests gets nine tenths of a core that both want."""


def give_way() -> None:
    """Lowers this thread's priority, for the rest of its life."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
