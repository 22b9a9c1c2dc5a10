"""Connections and streams without end: refused with a reason, while those before are answered."""

import contextlib
import json
import resource
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2

from tests.e2e.cases import text
from tests.e2e.grpc_calls import embed, failure
from tests.e2e.server import Server, running_server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb

MOST = 200
IDLE_SECONDS = 3
MAX_CALLS = 64
HEALTHZ = b"GET /healthz HTTP/1.1\r\nhost: a\r\n\r\n"
MODELS = b"GET /v1/models HTTP/1.1\r\nhost: a\r\n\r\n"


@pytest.fixture(scope="module")
def narrow(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with room for few connections and calls, none of which may be idle for long."""
    flags = (
        "--model", f"qwen={checkpoints / 'qwen2_vl'}", "--max-connections", str(MOST),
        "--max-calls", str(MAX_CALLS), "--http-keepalive-seconds", str(IDLE_SECONDS),
        "--connection-idle-seconds", str(IDLE_SECONDS),
    )  # fmt: skip
    with running_server(tmp_path_factory.mktemp("narrow"), *flags) as started:
        yield started


@contextlib.contextmanager
def connections(
    address: str, count: int, said: bytes = b"", between: Callable[[], object] = lambda: None
) -> Iterator[list[socket.socket]]:
    """Connections that say ``said`` and fall silent; ``between`` is called after every hundred."""
    host, _, port = address.partition(":")
    with contextlib.ExitStack() as stack:
        opened = []
        for number in range(count):
            if number % 100 == 99:
                between()
            with contextlib.suppress(ConnectionError):
                opened.append(stack.enter_context(socket.create_connection((host, int(port)), 30)))
                opened[-1].sendall(said)
        yield opened


def many() -> int:
    """Connections beyond what the server takes, and within what this process may open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return min(2000, soft // 2)


def answer_on(connection: socket.socket, request: bytes) -> tuple[int, bytes]:
    """The status and the body of the answer to ``request``."""
    connection.sendall(request)
    data = b""
    while b"}" not in data:
        received = connection.recv(65_536)
        assert received, data
        data += received
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), body


def is_closed(connection: socket.socket) -> bool:
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return False
    except ConnectionError:
        pass
    return True


@pytest.mark.parametrize("said", [b"", b"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\nx-"])
def test_idle_connections_over_http_are_limited_and_closed(narrow: Server, said: bytes) -> None:
    address = narrow.http_address
    # The server may not have seen yet that the test before closed its connections.
    wait_until(lambda: httpx.get(f"http://{address}/v1/models", timeout=60).status_code == 200)
    with httpx.Client(base_url=f"http://{address}", timeout=60) as before:
        assert before.get("/v1/models").status_code == 200
        # Where connections open slowly, the first one must not be idle meanwhile.
        with connections(address, many(), said, lambda: before.get("/v1/models")) as idle:
            assert len(idle) == many()
            assert before.get("/v1/models").status_code == 200
            with connections(address, 2) as (first, second):
                status, body = answer_on(first, MODELS)
                error = json.loads(body)["error"]
                assert (status, error["code"]) == (503, "unavailable")
                assert error["message"] == f"too many connections are open (max_connections {MOST})"
                assert answer_on(second, HEALTHZ) == (200, b'{"status":"alive"}')
            wait_until(lambda: all(map(is_closed, idle)))
            with connections(address, 1) as (late,):
                assert answer_on(late, MODELS)[0] == 200


def test_a_connection_in_use_is_not_idle(narrow: Server) -> None:
    with connections(narrow.http_address, 1) as (connection,):
        for _ in range(4):
            assert answer_on(connection, MODELS)[0] == 200
            time.sleep(IDLE_SECONDS / 2)
        # The head of the next request comes, but slowly.
        connection.sendall(MODELS[:10])
        time.sleep(IDLE_SECONDS / 2)
        assert answer_on(connection, MODELS[10:])[0] == 200
        wait_until(lambda: is_closed(connection))


def test_no_more_than_a_few_requests_are_taken_ahead(narrow: Server) -> None:
    with connections(narrow.http_address, 1) as (connection,):
        with contextlib.suppress(ConnectionError):
            connection.sendall(HEALTHZ * 10_000)
        data = b""
        with contextlib.suppress(ConnectionError):
            while received := connection.recv(65_536):
                data += received
        assert data.count(b"HTTP/1.1 200") < 100
    with connections(narrow.http_address, 1) as (connection,):
        connection.sendall(HEALTHZ * 20)
        data = b""
        while data.count(b"alive") < 20:
            data += connection.recv(65_536)


def test_idle_connections_over_grpc_are_limited_and_closed(narrow: Server) -> None:
    embed(narrow, text("a"))
    with connections(narrow.address, many()) as idle:
        wait_until(lambda: sum(map(is_closed, idle)) >= len(idle) - MOST)
        embed(narrow, text("a"))  # on a connection from before
        request = pb.ListModelsRequest()
        with narrow.connect() as channel:
            stub = type(narrow.embedding)(channel)
            refused = failure(stub.ListModels, request, timeout=10)
            assert refused.code() == grpc.StatusCode.UNAVAILABLE
        wait_until(lambda: all(map(is_closed, idle)))
        with narrow.connect() as channel:
            type(narrow.embedding)(channel).ListModels(request, timeout=30, wait_for_ready=True)


def test_streams_without_end_are_refused(narrow: Server) -> None:
    """Of calls by one caller half may be under way, of health's streams as many as of calls."""
    with narrow.connect() as channel:
        calls: list[Any] = []
        outcomes: Counter[str] = Counter()
        over = threading.Event()

        def nothing() -> Iterator[pb.EmbedStreamRequest]:
            over.wait()
            yield from ()

        def opened(make: Any) -> None:
            for _ in range(300):
                call = make()
                call.add_done_callback(lambda ended: outcomes.update([ended.code().name]))
                calls.append(call)

        stub = type(narrow.embedding)(channel)
        opened(lambda: stub.EmbedStream(nothing()))
        wait_until(lambda: outcomes["RESOURCE_EXHAUSTED"] == 300 - MAX_CALLS // 2)
        refused = failure(stub.ListModels, pb.ListModelsRequest())
        assert f"(max_calls {MAX_CALLS})" in (refused.details() or "")
        health = type(narrow.health)(channel)
        opened(lambda: health.Watch(health_pb2.HealthCheckRequest()))
        wait_until(lambda: outcomes["RESOURCE_EXHAUSTED"] == 600 - MAX_CALLS // 2 - MAX_CALLS)
        assert narrow.status() == health_pb2.HealthCheckResponse.SERVING
        for call in calls:
            call.cancel()
        over.set()
    wait_until(lambda: narrow.metric("requests_in_flight", method="EmbedStream") == 0)
    embed(narrow, text("a"))
