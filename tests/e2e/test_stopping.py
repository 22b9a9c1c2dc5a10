"""What stops, stops: workers with their front end, and a front end whatever hangs."""

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.server import COMMAND, free_ports, running_server, wait_until


def children(pid: int) -> list[int]:
    """The worker processes of a front end."""
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in listed]


def alive(pid: int) -> bool:
    """Whether the process runs; one that only waits to be reaped does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.parametrize("seconds", [0.0, 0.5, 2.0])
def test_a_worker_ends_with_its_front_end_also_while_it_loads(
    checkpoints: Path, tmp_path: Path, seconds: float
) -> None:
    ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
    with (tmp_path / "log").open("wb") as log:
        front_end = subprocess.Popen(
            [
                COMMAND, "serve", "--model", f"m={checkpoints / 'qwen2_vl'}", "--listen", ports[0],
                "--metrics-listen", ports[1], "--http-listen", ports[2],
            ],
            stdin=subprocess.DEVNULL, stderr=log,
        )  # fmt: skip
    try:
        wait_until(lambda: len(children(front_end.pid)) > 0, 60)
        workers = children(front_end.pid)
        time.sleep(seconds)
        assert all(map(alive, workers))
    finally:
        front_end.kill()
        front_end.wait()
    # Importing torch may hold up the thread that looks.
    wait_until(lambda: not any(map(alive, workers)), 30)


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections, and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        taken: list[socket.socket] = []

        def accept() -> None:
            while True:
                try:
                    taken.append(listener.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_what_hangs_holds_up_no_stop(checkpoints: Path, tmp_path: Path, silent: str) -> None:
    """Neither a registry nor a request, which is told so: its client goes to another server."""
    flags = [
        "--model", f"m={checkpoints / 'qwen2_vl'}", "--registry", silent, "--cache-dir",
        str(tmp_path / "cache"), "--drain-seconds", "3", "--fetch-origins", silent,
        "--fetch-private-addresses", "--fetch-seconds", "60",
    ]  # fmt: skip
    with running_server(tmp_path, *flags, ready=False) as server, ThreadPoolExecutor(1) as caller:
        url = f"http://{server.http_address}/v1/embeddings"
        body = {"model": "m@base", "input": {"image_url": f"{silent}/a.png"}}
        wait_until(lambda: server.metric("worker_up", model="m") == 1)
        open_request = caller.submit(httpx.post, url, json=body, timeout=60)
        wait_until(lambda: server.metric("requests_in_flight", method="/v1/embeddings") == 1)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        assert time.monotonic() - started < 20  # MLflow's own time limits add up to 30 s and more
        answer = open_request.result()
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["error"]["code"] == "unavailable"
        assert "shutting down" in answer.json()["error"]["message"]


def test_a_stop_while_it_starts_is_heeded(checkpoints: Path, tmp_path: Path, silent: str) -> None:
    ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                COMMAND, "serve", "--model", f"m={checkpoints / 'qwen2_vl'}", "--registry", silent,
                "--cache-dir", str(tmp_path / "cache"), "--listen", ports[0],
                "--metrics-listen", ports[1], "--http-listen", ports[2],
            ],
            stdin=subprocess.DEVNULL, stderr=log, env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
    try:
        metrics = ports[1].rpartition(":")[2]
        wait_until(lambda: _listens(int(metrics)), 60)
        process.send_signal(signal.SIGTERM)
        assert process.wait(12) == 0  # the registry is given 15 s to answer
    finally:
        process.kill()
        process.wait()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
