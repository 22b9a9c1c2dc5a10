"""The installed ``vlm2vec serve`` as a process of its own, and what a test asks of it."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from prometheus_client.parser import text_string_to_metric_families

from vlm2vec.v1 import adapters_pb2_grpc, embedding_pb2_grpc

COMMAND = Path(sys.executable).with_name("vlm2vec")
START_SECONDS = 120.0
"""For torch to be imported and a checkpoint read, on a machine that does other things as well."""
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
UNLIMITED = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))


@dataclass
class Server:
    """A running server. ``log`` is its standard error and its workers'."""

    process: subprocess.Popen[bytes]
    address: str
    metrics_address: str
    http_address: str
    log: Path
    credentials: grpc.ChannelCredentials | None = None
    channel: grpc.Channel = field(init=False)
    first_status: int = -1
    """What health said when it could first be asked."""

    def __post_init__(self) -> None:
        self.channel = self.connect()
        self.embedding = embedding_pb2_grpc.EmbeddingServiceStub(self.channel)
        self.adapters = adapters_pb2_grpc.AdapterServiceStub(self.channel)
        # Its methods are missing from the published types.
        self.health: Any = health_pb2_grpc.HealthStub(self.channel)

    def connect(self, *options: tuple[str, int]) -> grpc.Channel:
        """A connection that is shared with nobody."""
        own = (("grpc.use_local_subchannel_pool", 1), *UNLIMITED, *options)
        if self.credentials:
            return grpc.secure_channel(self.address, self.credentials, own)
        return grpc.insecure_channel(self.address, own)

    def status(self, service: str = "") -> int:
        """What health says of ``service``."""
        request = health_pb2.HealthCheckRequest(service=service)
        return int(self.health.Check(request, timeout=START_SECONDS, wait_for_ready=True).status)

    def wait_for(self, status: int, seconds: float = START_SECONDS) -> None:
        """Until health says ``status`` of all models."""
        wait_until(lambda: self._is_alive() and self.status("model/*") == status, seconds)

    def _is_alive(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return True

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers."""
        return [
            int(path.parent.name)
            for path in Path("/proc").glob("[0-9]*/stat")
            if _parent(path) == self.process.pid
        ]

    def metrics_text(self) -> str:
        """What Prometheus would read."""
        with urllib.request.urlopen(f"http://{self.metrics_address}/metrics", timeout=30) as page:
            return str(page.read().decode())

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples called ``vlm2vec_<name>`` that have ``labels``."""
        return sum(
            sample.value
            for family in text_string_to_metric_families(self.metrics_text())
            for sample in family.samples
            if sample.name == f"vlm2vec_{name}" and labels.items() <= sample.labels.items()
        )

    def stop(self) -> None:
        """SIGTERM; it has to end well and leave no worker behind."""
        workers = self.workers
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(90) == 0, self.log.read_text()
        assert not [pid for pid in workers if is_running(pid)]


@contextlib.contextmanager
def running_server(
    folder: Path,
    *flags: str | Path,
    environment: Mapping[str, str] | None = None,
    credentials: grpc.ChannelCredentials | None = None,
    ports: Sequence[int] = (),
    ready: bool = True,
) -> Iterator[Server]:
    """Starts a server, waits until it is ready, if it is to be ``ready``, and stops it in the end.
    Its log goes to ``folder``; its environment variables are ``environment`` and nobody else's.
    ``credentials`` are for a server with TLS; ``ports`` for gRPC, metrics and HTTP are free ones
    unless they are given."""
    variables = {key: value for key, value in os.environ.items() if not key.startswith("VLM2VEC")}
    # Threads that wait for each other by spinning are slow where callers need the cores as well.
    variables["OMP_NUM_THREADS"] = "1"
    address, metrics_address, http_address = (
        f"127.0.0.1:{port}" for port in ports or free_ports(3)
    )
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                COMMAND, "serve", "--listen", address, "--metrics-listen", metrics_address,
                "--http-listen", http_address,
                *map(str, flags),
            ],
            stdin=subprocess.DEVNULL,
            stderr=output,
            env=variables | dict(environment or {}),
        )  # fmt: skip
    server = Server(process, address, metrics_address, http_address, log, credentials)
    try:
        server.first_status = server.status()
        if ready:
            server.wait_for(SERVING)
        yield server
        if process.poll() is None:
            server.stop()
    finally:
        server.channel.close()
        # Only after a failure is anything left to kill: the workers then see that they are orphans.
        if process.poll() is None:
            process.kill()
            process.wait()


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, outside the range that the kernel gives connections: until a
    server listens, one of the tests that run beside could be given it."""
    found: set[int] = set()
    while len(found) < count:
        port = random.SystemRandom().randrange(10_000, 32_768)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found.add(port)
    return list(found)


def wait_until(condition: Callable[[], object], seconds: float = 60.0, pause: float = 0.05) -> None:
    """Until ``condition`` holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(pause)


def memory_peak(pid: int) -> int:
    """The most bytes that a process ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmHWM:")[1].split()[0])


def memory(pid: int) -> int:
    """Bytes of a process that are in memory."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def is_running(pid: int) -> bool:
    """Whether there is such a process, and not only its remains."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def _parent(stat: Path) -> int:
    try:
        return int(stat.read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
