"""A clock that a busy machine cannot move."""

import selectors
import time

import pytest


@pytest.fixture
def still_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes time pass only when an event loop has nothing else to do, and then at once.

    What is ready has run before any timer fires, however slow the machine is, and a test that
    sleeps takes no time. It is for what runs in the loop alone: the clock passes what a thread or
    another process is still busy with.
    """
    now = time.monotonic()

    class Selector(selectors.DefaultSelector):
        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            nonlocal now
            ready = super().select(timeout and 0)
            now += 1e-9  # who waits for less than a float can tell waits no more
            if timeout and not ready:
                now += timeout
            return ready

    monkeypatch.setattr(selectors, "DefaultSelector", Selector)
    monkeypatch.setattr(time, "monotonic", lambda: now)
