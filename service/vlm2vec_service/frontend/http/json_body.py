"""The JSON of a request's body, whose elements are counted before it is parsed.

The parser of the standard library lets nothing else run until it is through, and a body of 64 MiB
has room for tens of millions of lists. It reads every string three times and, if there is a single
emoji anywhere, with four bytes to a character. Data URIs, which fill most large bodies, are
therefore cut out of the body before and put back while it is parsed.
"""

import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from fastapi import Request, Response
from fastapi.routing import APIRoute

from vlm2vec_registry import strict
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.parsing import SMALL, parsed

CHUNK = 65_536
"""Bytes that are looked at before other threads get their turn."""
LONG_URI = 4096
"""Bytes of a data URI that is worth being cut out."""
STARTS = (b'"data:', b'"DATA:', b'"Data:')
"""How a string starts that may be one. Of the other ways to write it only short ones are read."""
ESCAPES = {"\\/": "/", "\\n": "\n", "\\r": "\r"}
"""What is written as an escape in a data URI: some languages do so for every slash, and some break
base64 into lines."""
MARK = "NaN"
"""What stands for a data URI meanwhile. It is no JSON, but Python's parser asks what it means."""


class BodyRoute(APIRoute):
    """A route whose request's body is read by `read_json`."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """Makes FastAPI's own handler, and gives it a `_JsonRequest`."""
        handle = super().get_route_handler()

        async def with_json(request: Request) -> Response:
            answer: Response = await handle(_JsonRequest(request.scope, request.receive))
            return answer

        return with_json


class _JsonRequest(Request):
    """A request whose whole body comes in one message, and is not copied."""

    async def body(self) -> bytes:
        if not hasattr(self, "_body"):
            self._body = (await self.receive())["body"]
        return self._body

    async def json(self) -> Any:
        body = await self.body()
        state = self.app.state
        return await parsed(
            lambda: read_json(body, state.max_elements, state.max_text_bytes), len(body)
        )


def read_json(body: bytes | bytearray, max_elements: int, max_text_bytes: int) -> Any:
    """Parses ``body``, JSON in UTF-8. A large one may have ``max_elements`` keys and values, and
    ``max_text_bytes`` beside its data URIs.

    Raises `InvalidInputError` that names the limit or says what is wrong.
    """
    uris: list[str] = []
    if len(body) > SMALL:
        check_elements(body, max_elements)
        body, uris = cut_out(body)
    if len(body) > max_text_bytes:
        raise InvalidInputError(
            "body", f"{len(body)} bytes beside data URIs; {max_text_bytes} are accepted"
        )
    unused = iter(uris)

    def put_back(constant: str) -> str:
        uri = next(unused, None)
        if constant != MARK or uri is None:
            raise ValueError(f"{constant} is not a number of JSON")
        return uri

    try:
        value = strict.loads(body.decode(), put_back)
    except UnicodeDecodeError as error:
        raise InvalidInputError("body", "no JSON in UTF-8") from error
    except RecursionError as error:
        raise InvalidInputError("body", "nested too deeply") from error
    except ValueError as error:
        problem = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        raise InvalidInputError("body", f"no JSON: {problem}") from error
    if next(unused, None) is not None:
        raise InvalidInputError("body", "no JSON: there is a data URI without its quotes")
    return value


def check_elements(body: bytes | bytearray, most: int) -> None:
    """Refuses JSON of more than ``most`` keys and values, without parsing it.

    Each value but the first in a list or object has a comma before it, and each key a colon behind
    it. Raises `InvalidInputError`.
    """
    elements, quotes, inside, escape = 1, 0, 0, b""
    for start in range(0, len(body), CHUNK):
        piece = escape + body[start : start + CHUNK]
        escape = b""
        if b"\\" in piece:
            piece = piece.replace(b"\\\\", b"").replace(b'\\"', b"")
            if piece.endswith(b"\\"):
                piece, escape = piece[:-1], b"\\"
        pieces = piece.split(b'"')
        between = b"".join(pieces[inside::2])
        elements += sum(map(between.count, (b",", b":", b"[", b"{")))
        quotes += len(pieces) - 1
        inside = quotes % 2
        if elements > most or quotes > 2 * most:
            raise InvalidInputError("body", f"more keys and values than max_elements, {most}")


def cut_out(body: bytes | bytearray) -> tuple[bytes | bytearray, list[str]]:
    """Puts `MARK` into the place of each long string that is a data URI, and returns them, too."""
    view = memoryview(body)
    pieces: list[bytes | memoryview] = []
    uris, done = [], 0
    for start in sorted(start for written in STARTS for start in _starts(body, written)):
        if start < done:  # within a string that was cut out
            continue
        end = body.find(b'"', start + 1)
        is_long = end - start > LONG_URI and body[start - 1 : start] != b"\\"
        uri = _uri(view[start + 1 : end]) if is_long else None
        if uri is not None:
            pieces += [view[done:start], MARK.encode()]
            uris.append(uri)
            done = end + 1
        else:
            pieces.append(view[done : start + 1])
            done = start + 1
    return (b"".join((*pieces, view[done:])) if uris else body), uris


def _uri(string: memoryview) -> str | None:
    """The text of a ``string`` in JSON; None if it is not ASCII, or not as simple as URIs are."""
    codes = np.frombuffer(string, np.uint8)
    if codes.min() < 0x20 or codes.max() > 0x7E:
        return None
    text = str(string, "ascii")
    if "\\" in text:
        for escape, character in ESCAPES.items():
            text = text.replace(escape, character)
    return None if "\\" in text else text


def _starts(body: bytes | bytearray, start: bytes) -> Iterator[int]:
    """Where ``start`` stands in ``body``."""
    place = -1
    while (place := body.find(start, place + 1)) >= 0:
        yield place
