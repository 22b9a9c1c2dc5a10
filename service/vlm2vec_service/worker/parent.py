"""A worker ends with the front end that started it, whatever it is doing when that is killed."""

import os
import signal
import threading
import time

PARENT = "VLM2VEC_WORKER_PARENT"
"""The environment variable with the process id of the front end that started this worker."""
LOOK_SECONDS = 0.5
GRACE_SECONDS = 10.0


def end_with_parent() -> None:
    """Watches the front end from a thread of its own; without one there is nothing to watch.

    When it is gone this process is told to stop, and is ended if it does not: it may be loading, or
    hang in a batch.
    """
    parent = int(os.environ.get(PARENT, "0"))
    if not parent:
        return

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(LOOK_SECONDS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_SECONDS)
        os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()
