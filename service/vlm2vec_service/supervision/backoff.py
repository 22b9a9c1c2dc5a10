"""When a process that ended is started again."""

FIRST, LAST = 0.1, 30.0
"""Seconds before a restart; doubled each time."""
HEALTHY = 60.0
"""Seconds of a life after which what was before is forgotten."""


class Backoff:
    """The seconds to wait before each restart of one process."""

    def __init__(self) -> None:
        self._next = FIRST

    def forget(self) -> None:
        """Notes that the process works: the next restart is like the first."""
        self._next = FIRST

    def after(self, life: float) -> float:
        """The seconds to wait after a life of so many seconds."""
        if life > HEALTHY:
            self.forget()
        pause, self._next = self._next, min(2 * self._next, LAST)
        return pause
