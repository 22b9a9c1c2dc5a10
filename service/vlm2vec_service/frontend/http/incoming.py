"""A request's body as it comes: within its limits of size and time, and inflated."""

import asyncio
import zlib
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from typing import Any

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.access import Call
from vlm2vec_service.frontend.http.errors import RequestError

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]

COPIES = 4
"""How often a body is in memory while it is answered: as it came and as the framework gives it on,
as JSON, and as the media that base64 was in it."""
PIECE = 262_144
"""Bytes that are inflated before the event loop answers others."""


class Gone(asyncio.CancelledError):
    """The caller has closed the connection."""


def values_of(scope: Message, name: str) -> list[str]:
    """The values of a header, each time that it is there."""
    wanted = name.encode()
    return [value.decode("latin-1") for key, value in scope["headers"] if key == wanted]


def header(scope: Message, name: str) -> str:
    """The value of a header; empty where the header is missing, or there twice."""
    values = values_of(scope, name)
    return values[0] if len(values) == 1 else ""


class Inflater:
    """Inflates a body that is compressed as ``encoding`` says, the value of the request's header.

    Raises `RequestError` for an encoding that nobody here knows.
    """

    def __init__(self, encoding: str) -> None:
        if encoding.lower() not in ("", "identity", "gzip", "x-gzip"):
            problem = f"{encoding[:50]!r} is unknown; send gzip, or none"
            raise RequestError(415, "content-encoding", problem, {"accept-encoding": "gzip"})
        self._stream = zlib.decompressobj(wbits=31) if "gzip" in encoding.lower() else None

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """What is in ``data``, in pieces of `PIECE` bytes at most. Raises `InvalidInputError`."""
        piece = data
        while self._stream is not None:
            try:
                piece = self._stream.decompress(data, PIECE)
            except zlib.error as error:
                raise InvalidInputError("body", "no gzip, as content-encoding says") from error
            if self._stream.unused_data:
                raise InvalidInputError("body", "there is something behind the end of the gzip")
            if len(piece) < PIECE:
                break
            data = self._stream.unconsumed_tail
            yield piece
        yield piece

    def finish(self) -> None:
        """Raises `InvalidInputError` if there was not all of it."""
        if self._stream is not None and not self._stream.eof:
            raise InvalidInputError("body", "the gzip ends too early")


async def read_body(
    call: Call, scope: Message, receive: Receive, most: int, limit: str, seconds: float
) -> bytearray:
    """Reads the whole body, for which ``call`` holds memory: all that it is said to be, before it
    is read, or as it comes.

    Raises `RequestError` if it has more than ``most`` bytes, also inflated, the limit called
    ``limit``; if it takes longer than ``seconds``; or if its encoding is unknown. Raises
    `InvalidInputError` if it cannot be inflated, and what `Call.hold` raises.
    """
    inflater = Inflater(header(scope, "content-encoding"))
    length = header(scope, "content-length")
    # A number too long for Python to read is too large for anything here.
    size = int(length[:19]) if length.isdecimal() else 0
    held = 0

    def count(size: int) -> None:
        nonlocal held
        if size > most:
            raise RequestError(413, "body", f"more than {limit}, {most}")
        if size > held:
            call.hold(COPIES * (size - held), "body")
            held = size

    count(size)
    body = bytearray()  # which grows in place; to join pieces in the end would take a moment
    try:
        async with asyncio.timeout(seconds):
            more = True
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise Gone
                for piece in inflater.pieces(message.get("body", b"")):
                    body += piece
                    count(len(body))
                    if len(piece) == PIECE:
                        await asyncio.sleep(0)
                more = message.get("more_body", False)
    except TimeoutError as error:
        raise RequestError(
            408, "body", f"not there after http_body_seconds, {seconds:g}"
        ) from error
    inflater.finish()
    return body
