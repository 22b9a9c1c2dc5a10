"""Load over HTTP/2 and HTTP/1.1 that costs next to nothing: requests made once, answers counted.

gRPC's own Python client takes about as long over a call as a front end does, and would share its
core or limit it. This speaks as much of HTTP/2 (RFC 9113) as gRPC's server needs of a client.
"""

from __future__ import annotations

import asyncio
import functools
import pickle
import struct
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE = 0, 1, 3, 4, 6, 7, 8
ACK, END_STREAM, END_HEADERS = 1, 1, 4
INITIAL_WINDOW_SIZE = 4
FRAME_BYTES = 16_384
"""Bytes of a frame's payload at most, unless the receiver allows more."""
MORE, MOST_TOGETHER = b"\x22", 64
"""The field ``more`` of a stream's message, encoded, and how many requests are in one message."""
WINDOW = 1 << 30
"""Bytes that the server may send ahead, of one stream and of all."""


@dataclass(frozen=True)
class Load:
    """What one process sends: to ``address``, over so many ``connections``, with so many requests
    ``at_once`` on each, the ``requests`` in turn. ``path`` is that of the call; ``stream`` sends
    all requests in one call, ``more`` those that may be sent now in one message, as our own clients
    do. Answers of fewer than ``least`` bytes are errors."""

    address: str
    path: str
    requests: Sequence[bytes]
    connections: int
    at_once: int
    least: int
    http: bool = False
    stream: bool = False
    more: bool = False


async def run(load: Load, start: float, seconds: float) -> int:
    """Loads the server, and counts the answers that come in the ``seconds`` from ``start``, a time
    of ``time.monotonic``. Raises `RuntimeError` for an answer that is an error."""
    loop = asyncio.get_running_loop()
    host, _, port = load.address.rpartition(":")
    make = Http1 if load.http else Http2
    clients: list[Client] = []
    for index in range(load.connections):
        _, client = await loop.create_connection(
            functools.partial(make, load, index), host, int(port)
        )
        clients.append(client)
    await asyncio.sleep(start - time.monotonic())
    before = sum(client.answers for client in clients)
    await asyncio.sleep(start + seconds - time.monotonic())
    for client in clients:
        if client.fault:
            raise RuntimeError(f"{load.path}: {client.fault}")
    return sum(client.answers for client in clients) - before


class Client(asyncio.Protocol):
    """One connection, with as many requests under way as the load says."""

    def __init__(self, load: Load, index: int) -> None:
        self.load = load
        self.answers = 0
        self.fault = ""
        self._next = index
        self._received = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        self.fault = self.fault or f"the connection was lost ({error})"

    def request(self) -> bytes:
        """The next request."""
        self._next += 1
        return self.load.requests[self._next % len(self.load.requests)]

    def answered(self, size: int) -> bool:
        """Counts the answer in ``size`` bytes; False for one that is an error."""
        if size < self.load.least:
            self.fault = self.fault or f"an answer of {size} bytes: {bytes(self._received[:500])!r}"
            self.transport.close()
            return False
        self.answers += 1
        return True


class Http1(Client):
    """Requests one after the other over a connection that stays open."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._send()

    def _send(self) -> None:
        body = self.request()
        head = (
            f"POST {self.load.path} HTTP/1.1\r\nhost: {self.load.address}\r\n"
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        )
        self.transport.write(head.encode() + body)

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._received[:end]).lower()
        size = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
        if len(self._received) < end + 4 + size:
            return
        if self.answered(size):
            self._received.clear()
            self._send()


class Http2(Client):
    """Calls of gRPC over one connection, each with one request; or one call with all of them."""

    # Put into the server's table by the first call (RFC 7541); later calls name their places.
    HEADERS: ClassVar = ("content-type", "te", ":authority", ":path")
    KNOWN = b"\x83\x86" + bytes(0x80 | 62 + place for place in reversed(range(len(HEADERS))))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._room = self._initial_room = 65_535
        self._rooms: dict[int, int] = {}
        self._waiting: deque[tuple[int, memoryview]] = deque()
        self._sizes: dict[int, int] = {}
        self._partial = bytearray()
        self._taken = 0
        self._stream = -1
        self.transport.write(
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
            + _frame(SETTINGS, 0, 0, struct.pack(">HI", INITIAL_WINDOW_SIZE, WINDOW))
            + _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", WINDOW - 65_535))
        )
        values = ("application/grpc", "trailers", self.load.address, self.load.path)
        first = b"\x83\x86" + b"".join(
            b"\x40" + _string(name) + _string(value)
            for name, value in reversed([*zip(self.HEADERS, values, strict=True)])
        )
        if self.load.stream:
            self._open(first)
            self._send(self.load.at_once)
            return
        for index in range(self.load.at_once):
            self._open(self.KNOWN if index else first)
            self._send()

    def _open(self, headers: bytes) -> None:
        self._stream += 2
        self._rooms[self._stream] = self._initial_room
        self._sizes[self._stream] = 0
        self.transport.write(_frame(HEADERS, END_HEADERS, self._stream, headers))

    def _send(self, requests: int = 1) -> None:
        """Sends so many requests in the last call, each in a message of its own unless they are
        ``more``, a field of the first (see protos/)."""
        while requests:
            together = min(requests, MOST_TOGETHER) if self.load.more else 1
            requests -= together
            message = self.request()
            for more in (self.request() for _ in range(together - 1)):
                message += MORE + _varint(len(more)) + more
            data = memoryview(struct.pack(">BI", 0, len(message)) + message)
            self._waiting.append((self._stream, data))
        self._flush()

    def _flush(self) -> None:
        """Sends what waits, as far as the server has room for it."""
        frames = []
        while self._waiting:
            stream, data = self._waiting[0]
            size = min(len(data), FRAME_BYTES, self._room, self._rooms[stream])
            if size <= 0:
                break
            last = size == len(data) and not self.load.stream
            frames.append(_frame(DATA, END_STREAM * last, stream, bytes(data[:size])))
            self._room -= size
            self._rooms[stream] -= size
            if size == len(data):
                self._waiting.popleft()
            else:
                self._waiting[0] = (stream, data[size:])
        if frames:
            self.transport.write(b"".join(frames))

    def data_received(self, data: bytes) -> None:
        received = self._received
        received += data
        at = 0
        while len(received) >= at + 9:
            size = int.from_bytes(received[at : at + 3], "big")
            if len(received) < at + 9 + size:
                break
            kind, flags = received[at + 3], received[at + 4]
            stream = int.from_bytes(received[at + 5 : at + 9], "big")
            self._frame(kind, flags, stream, memoryview(received)[at + 9 : at + 9 + size])
            at += 9 + size
        del received[:at]

    def _frame(self, kind: int, flags: int, stream: int, payload: memoryview) -> None:
        if kind == DATA:
            self._take(stream, payload)
        elif kind == PING and not flags & ACK:
            self.transport.write(_frame(PING, ACK, 0, bytes(payload)))
        elif kind == SETTINGS and not flags & ACK:
            self._settings(bytes(payload))
        elif kind == WINDOW_UPDATE:
            self._more_room(stream, int.from_bytes(payload, "big"))
        elif kind in (RST_STREAM, GOAWAY):
            self.fault = self.fault or f"frame {kind}: {bytes(payload)!r}"
        if flags & END_STREAM and kind in (DATA, HEADERS):
            self._ended(stream)

    def _take(self, stream: int, payload: memoryview) -> None:
        self._taken += len(payload)
        if self._taken > WINDOW // 2:
            for taken_of in (0, stream) if self.load.stream else (0,):
                more = struct.pack(">I", self._taken)
                self.transport.write(_frame(WINDOW_UPDATE, 0, taken_of, more))
            self._taken = 0
        if self.load.stream:
            self._messages(payload)
        else:
            self._sizes[stream] += len(payload)

    def _messages(self, payload: memoryview) -> None:
        """Counts the answers of a stream that are whole now, and sends as many requests."""
        self._partial += payload
        count, at = 0, 0
        while len(self._partial) >= at + 5:
            size = int.from_bytes(self._partial[at + 1 : at + 5], "big")
            if len(self._partial) < at + 5 + size:
                break
            for _ in range(max(1, size // self.load.least) if self.load.more else 1):
                count += self.answered(size)
            at += 5 + size
        del self._partial[:at]
        self._send(count)

    def _ended(self, stream: int) -> None:
        del self._rooms[stream]
        if self.answered(self._sizes.pop(stream)) and not self.load.stream:
            self._open(self.KNOWN)
            self._send()

    def _settings(self, payload: bytes) -> None:
        for key, value in struct.iter_unpack(">HI", payload):
            if key == INITIAL_WINDOW_SIZE:
                more, self._initial_room = value - self._initial_room, value
                self._rooms = {stream: room + more for stream, room in self._rooms.items()}
        self.transport.write(_frame(SETTINGS, ACK, 0, b""))
        self._flush()

    def _more_room(self, stream: int, more: int) -> None:
        if stream == 0:
            self._room += more
        elif stream in self._rooms:
            self._rooms[stream] += more
        self._flush()


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    return (
        struct.pack(">I", len(payload) << 8 | kind)
        + bytes([flags])
        + struct.pack(">I", stream)
        + payload
    )


def _varint(number: int) -> bytes:
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + _varint(number >> 7)


def _string(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


if __name__ == "__main__":
    print(asyncio.run(run(*pickle.load(sys.stdin.buffer))))
