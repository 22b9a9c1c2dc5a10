"""Servers as the chart configures them, behind a real Envoy: lost, replaced and drained under
load."""

import contextlib
import itertools
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

import vlm2vec
from tests.chart.envoy import running_envoy
from tests.chart.served import MODEL, chart_flags, chart_values
from tests.e2e.server import Server, running_server, wait_until

PAUSE = 0.02
"""Seconds between calls, for those who share the machine."""


class SteadyCallers:
    """Threads that embed one text after the other, and one that streams, until told to end."""

    def __init__(self, address: str) -> None:
        self.answered = 0
        self.errors: list[Exception] = []
        self._stop = threading.Event()
        self._client = vlm2vec.Client(address)
        self._threads = [
            threading.Thread(target=self._guarded, args=[target])
            for target in (self._embed, self._embed, self._stream)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()
        self._client.close()

    def _guarded(self, target: Callable[[], None]) -> None:
        try:
            target()
        except Exception as error:  # noqa: BLE001 (the test looks)
            self.errors.append(error)

    def _embed(self) -> None:
        for number in itertools.count():
            if self._stop.wait(PAUSE):
                return
            assert self._client.embed(f"text {number}").ndim == 1
            self.answered += 1

    def _stream(self) -> None:
        def texts() -> Iterator[tuple[str, str]]:
            for number in itertools.count():
                if self._stop.wait(PAUSE):
                    return
                yield str(number), f"streamed {number}"

        for _, vector in self._client.stream(texts(), window=8):
            assert vector.ndim == 1
            self.answered += 1


def test_no_call_fails_while_servers_are_lost_replaced_and_drained(
    checkpoints: Path, tmp_path: Path
) -> None:
    def server(name: str) -> contextlib.AbstractContextManager[Server]:
        folder = tmp_path / name
        folder.mkdir()
        return running_server(folder, *chart_flags(chart_values(checkpoints), folder))

    with contextlib.ExitStack() as stack, ThreadPoolExecutor() as pool:
        names = ("first", "second", "third")
        first, second, third = pool.map(stack.enter_context, map(server, names))
        envoy = stack.enter_context(running_envoy(tmp_path, [first.address, second.address]))
        callers = stack.enter_context(SteadyCallers(envoy.address))

        def serves(server: Server, more: int = 10) -> None:
            """Waits for it to answer so many more inputs."""
            enough = server.metric("inputs_total", model=MODEL, code="OK") + more
            wait_until(
                lambda: (
                    callers.errors
                    or server.metric("inputs_total", model=MODEL, code="OK") >= enough
                )
            )
            assert not callers.errors

        serves(first)
        serves(second)

        first.process.kill()
        wait_until(lambda: envoy.healthy() == 1)
        serves(second)

        envoy.route([second.address, third.address])
        serves(third)
        serves(second)

        second.process.send_signal(signal.SIGTERM)
        assert second.process.wait(60) == 0, second.log.read_text()
        serves(third)
        assert not callers.errors
