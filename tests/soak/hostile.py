"""Callers that are broken, lost or mean no good: nobody else may notice them."""

import contextlib
import random
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from tests.chaos.rude_bytes import frame, rude_bytes
from tests.e2e.cases import options
from tests.e2e.server import Server
from tests.soak.samples import Sample
from vlm2vec.v1 import embedding_pb2 as pb

HostileAct = Callable[[Server, list[Sample], random.Random], None]
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b"")


def _requests(all: list[Sample], count: int) -> Iterator[pb.EmbedStreamRequest]:
    for number in range(count):
        message = all[number % len(all)].message()
        yield pb.EmbedStreamRequest(id=str(number), options=options(), input=message)


@contextlib.contextmanager
def _stream(server: Server, all: list[Sample], count: int) -> Iterator[Any]:
    """A stream of ``count`` requests on a connection of its own, cancelled in the end."""
    with server.connect(("grpc.http2.bdp_probe", 0)) as channel:
        call = type(server.embedding)(channel).EmbedStream(_requests(all, count))
        yield call
        call.cancel()


def never_reads(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Sends a thousand requests and takes no answer."""
    with _stream(server, all, 1000):
        time.sleep(2 + choose.random())


def reads_one(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Takes one answer and leaves."""
    with _stream(server, all, 200) as call, contextlib.suppress(grpc.RpcError):
        next(call)


def cancels_at_once(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Starts calls and cancels them before or while they are worked on."""
    for _ in range(20):
        with _stream(server, all, 30):
            time.sleep(choose.choice([0, 0.05]) * choose.random())


def many_streams(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Opens streams on one connection, and asks nothing."""
    with contextlib.ExitStack() as stack:
        channel = stack.enter_context(server.connect())
        for _ in range(200):
            call = type(server.embedding)(channel).EmbedStream(_waits())
            stack.callback(call.cancel)
        time.sleep(1)


def _waits() -> Iterator[pb.EmbedStreamRequest]:
    time.sleep(0.5)
    yield from ()


def pings(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Thousands of pings on a connection that does nothing else."""
    with _connected(server.address) as connection:
        for _ in range(5):
            connection.sendall((PREFACE if not _ else b"") + frame(6, b"12345678") * 1000)


def half_open(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Half messages and garbage over gRPC's port, on connections that then fall silent."""
    with contextlib.ExitStack() as stack:
        for data in rude_bytes():
            with contextlib.suppress(OSError):
                connection = stack.enter_context(_connected(server.address))
                connection.sendall(data)
        time.sleep(2)


def half_requests(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Half requests over HTTP, on connections that then fall silent or are reset."""
    head = b"POST /v1/embeddings HTTP/1.1\r\nHost: a\r\ncontent-type: application/json\r\n"
    with contextlib.ExitStack() as stack:
        for data in (
            b"", b"POST", head, head + b"content-length: 100\r\n\r\n", b"\x16\x03\x01" + bytes(99),
            head + b"content-length: 100\r\n\r\n{", head + b"transfer-encoding: chunked\r\n\r\nff",
        ):  # fmt: skip
            with contextlib.suppress(OSError):
                stack.enter_context(_connected(server.http_address)).sendall(data)
        time.sleep(1)


def many_connections(server: Server, all: list[Sample], choose: random.Random) -> None:
    """Connections to both ports that say nothing."""
    with contextlib.ExitStack() as stack:
        for address in (server.address, server.http_address):
            for _ in range(100):
                with contextlib.suppress(OSError):
                    stack.enter_context(_connected(address))
        time.sleep(1)


@contextlib.contextmanager
def _connected(address: str) -> Iterator[socket.socket]:
    host, _, port = address.partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as connection:
        yield connection


HOSTILE: dict[str, HostileAct] = {
    act.__name__: act
    for act in (
        never_reads, reads_one, cancels_at_once, many_streams, pings, half_open, half_requests,
        many_connections,
    )
}  # fmt: skip
"""What hostile callers do, by name."""
