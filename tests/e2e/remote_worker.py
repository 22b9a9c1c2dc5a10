"""A worker that runs by itself, as on another host."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.server import COMMAND


@contextlib.contextmanager
def running_worker(base: Path, address: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Starts a worker that listens on ``address`` and kills it in the end; its log goes on at the
    end of ``log``."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [
                COMMAND, "worker", "--base", str(base), "--address", address,
                "--dtype", "float32",
            ],
            stdin=subprocess.DEVNULL, stderr=output,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
