"""When a process that ended is started again, and what does not answer is asked again."""

FIRST, LAST = 0.1, 30.0
"""Seconds before a restart; doubled each time."""
LONGEST_PAUSE = 60.0
"""Seconds between two looks at a registry that is away, at most."""
HEALTHY = 60.0
"""Seconds of a life after which what was before is forgotten."""


class Backoff:
    """The seconds to wait before each restart of one process, or each try: ``first``, doubled each
    time up to ``last``."""

    def __init__(self, first: float = FIRST, last: float = LAST) -> None:
        self._first, self._last = first, last
        self._next = first

    def forget(self) -> None:
        """Notes that it works: the next restart is like the first."""
        self._next = self._first

    def after(self, life: float = 0.0) -> float:
        """The seconds to wait after a life of so many seconds."""
        if life > HEALTHY:
            self.forget()
        pause, self._next = self._next, min(2 * self._next, self._last)
        return pause
