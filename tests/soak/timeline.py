"""What was going on when: which version an alias stood for, and what was broken."""

import contextlib
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass
class Span:
    """Something that was so from ``since`` until ``until``, both in ``time.monotonic``."""

    what: str
    since: float
    until: float = math.inf

    def overlaps(self, since: float, until: float) -> bool:
        """Whether any of it lies between the two moments."""
        return self.since <= until and self.until >= since


class Timeline:
    """Spans under names, for any thread to add to and to ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[str, list[Span]] = {}

    def begin(self, name: str, what: str = "") -> Span:
        """Begins a span, which lasts until it is ended."""
        span = Span(what, time.monotonic())
        with self._lock:
            self._spans.setdefault(name, []).append(span)
        return span

    @contextlib.contextmanager
    def during(self, name: str) -> Iterator[None]:
        """A span for as long as the block takes."""
        span = self.begin(name)
        try:
            yield
        finally:
            span.until = time.monotonic()

    def settle(self, name: str, what: str = "") -> None:
        """Ends all spans of ``name`` but those of ``what``."""
        now = time.monotonic()
        with self._lock:
            for span in self._spans.get(name, ()):
                if span.what != what:
                    span.until = min(span.until, now)

    def between(self, name: str, since: float, until: float) -> set[str]:
        """What ``name`` was at some moment between the two."""
        with self._lock:
            spans = self._spans.get(name, ())
            return {span.what for span in spans if span.overlaps(since, until)}
