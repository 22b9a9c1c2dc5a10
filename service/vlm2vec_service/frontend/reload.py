"""Values that are read from files and follow them when they change."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from vlm2vec_service.errors import ServeError, StartError
from vlm2vec_service.metrics import Metrics

log = logging.getLogger(__name__)
T = TypeVar("T")


class Reloaded(Generic[T]):
    """The ``value`` that ``read`` makes of ``paths``, made again when the files' bytes change.

    A change that cannot be read leaves the last good value: it is logged, counted, and tried again
    at the next look. Mounted secrets are swapped by links, so bytes are compared, not times.
    """

    def __init__(self, name: str, paths: Sequence[Path], read: Callable[[], T]) -> None:
        """Reads for the first time. Raises what ``read`` raises, or `StartError`."""
        self.name = name
        self.paths = paths
        self._read = read
        self._bytes = self._snapshot()
        self._problem = ""
        self.value = read()

    def look(self, metrics: Metrics) -> None:
        """Makes the value again if the files have changed, and counts it in ``metrics``."""
        try:
            now = self._snapshot()
            if now == self._bytes:
                return
            value = self._read()
            # Several files are not replaced at once: they must not change while they are read.
            if self._snapshot() != now:
                return
        except (OSError, ValueError, ServeError) as error:
            metrics.reloads.labels(self.name, "failed").inc()
            if str(error) != self._problem:
                self._problem = str(error)
                log.error("%s: kept as it was: %s", self.name, error)
            return
        self.value, self._bytes, self._problem = value, now, ""
        metrics.reloads.labels(self.name, "ok").inc()
        log.info("%s: read again", self.name)

    def _snapshot(self) -> tuple[bytes, ...]:
        try:
            return tuple(path.read_bytes() for path in self.paths)
        except OSError as error:
            raise StartError(f"{error.filename}: {error.strerror}", self.name) from error


async def follow(items: Sequence[Reloaded[Any]], seconds: float, metrics: Metrics) -> None:
    """Looks at all ``items`` every ``seconds``, until it is cancelled."""
    while True:
        await asyncio.sleep(seconds)
        for item in items:
            item.look(metrics)
