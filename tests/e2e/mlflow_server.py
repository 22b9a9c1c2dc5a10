"""A real MLflow server with an SQLite store, and the parity adapters as versions in it."""

import base64
import contextlib
import os
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.server import free_ports, wait_until

QUIET = {
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes
    "MLFLOW_WORKERS": "1",  # of four
    "GIT_PYTHON_REFRESH": "quiet",
}
WEBHOOKS = {
    "MLFLOW_WEBHOOK_CACHE_TTL": "0",  # a new one is heeded at once
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
    "MLFLOW_WEBHOOK_SECRET_ENCRYPTION_KEY": base64.urlsafe_b64encode(bytes(32)).decode(),
}
"""For webhooks to this machine, without TLS."""


@dataclass
class Mlflow:
    """A running server."""

    url: str
    process: subprocess.Popen[bytes]

    def kill(self) -> None:
        """As an outage does: the server and the processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running_mlflow(
    folder: Path,
    port: int = 0,
    destination: str = "",
    environment: Mapping[str, str] | None = None,
) -> Iterator[Mlflow]:
    """Serves the store in ``folder``, which may be new; artifacts go to ``destination`` or beside
    it, through the server."""
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_ports(1)[0]
    url = f"http://127.0.0.1:{port}"
    with (folder / "mlflow.log").open("ab") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1",
                "--port", str(port),
                "--backend-store-uri", f"sqlite:///{folder / 'mlflow.db'}",
                "--artifacts-destination", destination or str(folder / "artifacts"),
            ],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            env={**os.environ, **QUIET, **(environment or {})}, start_new_session=True,
        )  # fmt: skip
    mlflow = Mlflow(url, process)
    try:
        wait_until(lambda: _answers(url, process, folder), 120)
        yield mlflow
    finally:
        mlflow.kill()


def _answers(url: str, process: subprocess.Popen[bytes], folder: Path) -> bool:
    assert process.poll() is None, (folder / "mlflow.log").read_text()[-2000:]
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5) as page:
            return page.status == 200
    except OSError:
        return False
