"""The demo's server, which is ``vlm2vec serve`` in a process of its own."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from vlm2vec import Client, VLM2VecError
from vlm2vec_service.errors import ServeError

START_SECONDS = 120.0
STOP_SECONDS = 75.0
"""Seconds to wait for the server's end: longer than it may drain."""


class DemoError(ServeError):
    """The demo cannot go on."""


@dataclass
class DemoServer:
    """A server that was started. Its addresses are HOST:PORT; ``keep`` leaves it running."""

    process: subprocess.Popen[bytes]
    grpc: str
    http: str
    metrics: str
    log: Path
    keep: bool = False

    def wait(self, model: str) -> None:
        """Waits until ``model`` is ready to answer. Raises `DemoError`."""
        deadline = time.monotonic() + START_SECONDS
        while not self._ready(model):
            if self.process.poll() is not None:
                raise DemoError(f"the server ended; {self.log} ends with:\n{self._last_lines()}")
            if time.monotonic() > deadline:
                raise DemoError(f"the server is not ready after {START_SECONDS:.0f} s: {self.log}")
            time.sleep(0.5)

    def _ready(self, model: str) -> bool:
        host, _, port = self.grpc.partition(":")
        try:
            # gRPC waits ever longer between tries to connect.
            socket.create_connection((host, int(port)), 1).close()
            with Client(self.grpc, max_retries=0) as client:
                return any(item.ready for item in client.models(timeout=10) if item.name == model)
        except (OSError, VLM2VecError):
            return False

    def _last_lines(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-8:])


class Interrupts:
    """Turns SIGINT and SIGTERM into `KeyboardInterrupt`, none of which is lost.

    They are held until `release`. Later ones are raised as they come; but Python drops what is
    raised in a destructor or in the callback of a weak reference, so `check` raises them again.
    A process that is started meanwhile is not concerned.
    """

    def __init__(self) -> None:
        self._held, self._came = True, False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._hear)

    def release(self) -> None:
        """Raises what came since the start, and from now on what comes."""
        self._held = False
        self.check()

    def check(self) -> None:
        """Raises `KeyboardInterrupt` if one ever came."""
        if self._came:
            raise KeyboardInterrupt

    def _hear(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        if not self._held:
            raise KeyboardInterrupt


@contextlib.contextmanager
def serving(folder: Path, *flags: str) -> Iterator[DemoServer]:
    """Starts ``vlm2vec serve`` with ``flags`` on ports of this host, and stops it in the end.

    It is left running if ``keep`` is set by then. Its log is ``folder``/server.log. Settings of the
    caller's environment do not reach it. Raises `DemoError` where no port is free.
    """
    grpc, http, metrics = (f"127.0.0.1:{_port(usual)}" for usual in (50051, 8080, 9090))
    log = folder / "server.log"
    given = {key: value for key, value in os.environ.items() if not key.startswith("VLM2VEC_")}
    # Two threads on a model this small wait for each other.
    environment = {"OMP_NUM_THREADS": "1"} | given
    # Stopped between the start and the `try`, the demo would leave the server behind.
    interrupts = Interrupts()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "vlm2vec_cli", "serve", "--listen", grpc,
                "--http-listen", http, "--metrics-listen", metrics, *flags,
            ],
            stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment,
            start_new_session=True,  # Ctrl-C is for us, who stop it
        )  # fmt: skip
    server = DemoServer(process, grpc, http, metrics, log)
    try:
        interrupts.release()
        yield server
        interrupts.check()
    except BaseException:
        server.keep = False
        raise
    finally:
        if not server.keep:
            _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except BaseException:
        process.kill()
        process.wait()
        raise


def _port(usual: int) -> int:
    """``usual`` if nobody has it, or any other that is free."""
    for port in (usual, 0):
        with socket.socket() as taken, contextlib.suppress(OSError):
            taken.bind(("127.0.0.1", port))
            return int(taken.getsockname()[1])
    raise DemoError("no port of 127.0.0.1 is free")
