"""How long the server's event loop stands still, seen from outside, in a process of its own.

``python -m tests.soak.probe HOST:PORT`` asks ``/healthz`` every 20 ms and writes a line for each
answer that took longer than 10 ms: the moment, in ``time.monotonic``, and the seconds. The threads
of a process that drives load would be late by themselves.
"""

import contextlib
import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

EVERY = 0.02
LEAST = 0.01
LONG = 0.05
"""Seconds that the loop must not stand still for what a caller sends."""


@dataclass(frozen=True)
class Stops:
    """The answers of a run that were late, in seconds, the longest last."""

    seconds: list[float]

    @property
    def longest(self) -> float:
        """The longest; 0 if none was late."""
        return self.seconds[-1] if self.seconds else 0.0

    @property
    def long(self) -> int:
        """How many took longer than `LONG`."""
        return sum(second > LONG for second in self.seconds)


class Probe:
    """The process while it runs."""

    def __init__(self, address: str, folder: Path) -> None:
        self._lines = folder / "probe.txt"
        with self._lines.open("wb") as output:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.soak.probe", address], stdout=output
            )

    def stop(self) -> Stops:
        """Ends the process and says what it saw."""
        self._process.terminate()
        self._process.wait()
        lines = [line.split() for line in self._lines.read_text().splitlines()]
        return Stops(sorted(float(line[1]) for line in lines if len(line) == 2))


@contextlib.contextmanager
def probing(address: str, folder: Path) -> Iterator[Probe]:
    """A probe that is ended in any case."""
    probe = Probe(address, folder)
    try:
        yield probe
    finally:
        probe.stop()


def _watch(address: str) -> None:
    host, _, port = address.partition(":")
    connection = http.client.HTTPConnection(host, int(port), timeout=60)
    while True:
        time.sleep(EVERY)
        try:
            if connection.sock is None:
                connection.connect()
            started = time.monotonic()
            connection.request("GET", "/healthz")
            connection.getresponse().read()
        except (OSError, http.client.HTTPException):
            # The server is down: that is no stop of its loop.
            connection.close()
            continue
        if (took := time.monotonic() - started) > LEAST:
            print(f"{started:.3f} {took:.4f}", flush=True)


if __name__ == "__main__":
    _watch(sys.argv[1])
