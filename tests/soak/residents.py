"""How much memory the processes have, from the start to the end."""

import contextlib
import threading
from collections.abc import Iterator

from tests.e2e.server import memory
from tests.soak.installation import Installation

EVERY = 0.5
MEGABYTE = 2**20


class Residents:
    """Megabytes of the front end and of all its workers at the start, at most, and now."""

    def __init__(self, site: Installation) -> None:
        self._site = site
        self.start = self.now()
        self.peak = dict(self.start)
        self.end = dict(self.start)

    def now(self) -> dict[str, float]:
        """Reads both; what has just died has none."""
        server = self._site.server
        found = {"front end": 0.0, "workers": 0.0}
        for name, pids in (("front end", [server.process.pid]), ("workers", server.workers)):
            for pid in pids:
                with contextlib.suppress(OSError, IndexError):
                    found[name] += memory(pid) / MEGABYTE
        return found

    def look(self) -> None:
        """Takes the peak along."""
        self.end = self.now()
        self.peak = {name: max(value, self.end[name]) for name, value in self.peak.items()}


@contextlib.contextmanager
def watching(residents: Residents) -> Iterator[None]:
    """Looks every so often while the block runs."""
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(EVERY):
            residents.look()

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
