"""Requests that are wrong, by kind: what is sent, and the codes that may come back."""

import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import httpx

from tests.e2e.bad_inputs import BAD_INPUTS, UNKNOWN
from tests.e2e.cases import options, text
from tests.e2e.test_http_errors import BAD
from tests.soak.bad_audio import AUDIO
from tests.soak.bad_bodies import BODIES, CONTENTS, HEADS
from tests.soak.bad_bytes import MESSAGES
from tests.soak.bad_pictures import PICTURES
from tests.soak.callers import Load
from tests.soak.samples import MODEL
from vlm2vec.v1 import embedding_pb2 as pb

INVALID = ("INVALID_ARGUMENT",)
SECONDS = 60.0


@dataclass(frozen=True)
class Malformed:
    """One kind: ``way`` is the name of a function of `WAYS`, ``content`` its argument, ``codes``
    what it may say."""

    name: str
    way: str
    content: Any
    codes: tuple[str, ...] = INVALID


Outcome = tuple[str, str]
"""A code and a message; the code of an answer without error is OK."""


def _unary(load: Load, content: pb.EmbedRequest) -> Outcome:
    try:
        load.embedding.Embed(content, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def _stream(load: Load, content: pb.EmbedStreamRequest) -> Outcome:
    """The request, between two that are good and have to be answered."""
    good = [
        pb.EmbedStreamRequest(id=id, options=options(MODEL), input=text(id)) for id in ("a", "b")
    ]
    try:
        answers = list(
            load.embedding.EmbedStream(iter([good[0], content, good[1]]), timeout=SECONDS)
        )
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    ids = sorted(answer.id for answer in answers)
    if ids != sorted(["a", content.id, "b"]):
        return "LOST", f"answers to {ids}"
    (answer,) = (answer for answer in answers if answer.id == content.id)
    code = next(code.name for code in grpc.StatusCode if code.value[0] == answer.error.code)
    return code, answer.error.message


def _message(load: Load, content: tuple[str, bytes]) -> Outcome:
    """Bytes in place of a message, to a unary method or a stream."""
    method, data = content
    path = f"/vlm2vec.v1.{method}"
    try:
        if method.endswith(("Stream", "WatchAdapters")):
            raw: Any = load.channel.stream_stream(path)
            next(raw(iter([data]), timeout=SECONDS), None)
        else:
            raw = load.channel.unary_unary(path)
            raw(data, timeout=SECONDS)
    except grpc.RpcError as error:
        return error.code().name, error.details() or ""
    return "OK", ""


def _http(load: Load, content: dict[str, Any]) -> Outcome:
    """A request that httpx can send; ``content`` are the arguments of its ``request``."""
    base, path = f"http://{load.site.server.http_address}", content.get("url", "/v1/embeddings")
    try:
        answer = httpx.request(
            **{"method": "POST", "timeout": SECONDS, **content, "url": base + path},
        )
    except httpx.TransportError as error:
        return "HTTP closed", repr(error)
    return f"HTTP {answer.status_code}", answer.text


WAYS: dict[str, Callable[[Load, Any], Outcome]] = {
    "unary": _unary,
    "stream": _stream,
    "message": _message,
    "http": _http,
}
"""How requests are sent, by name."""


def send(kind: Malformed, load: Load) -> Outcome:
    """Sends a request of a kind."""
    return WAYS[kind.way](load, kind.content)


def kinds() -> list[Malformed]:
    """All kinds, in an order that does not change."""
    return [*_inputs(), *_media(), *_messages(), *_requests()]


def _inputs() -> Iterator[Malformed]:
    for bad in BAD_INPUTS:
        request = pb.EmbedRequest(options=bad.options, inputs=[bad.input])
        yield Malformed(f"unary: {bad.name}", "unary", request)
        if bad.name in ("nothing", "damaged image", "unknown priority", "too many frames"):
            item = pb.EmbedStreamRequest(id="bad", options=bad.options, input=bad.input)
            yield Malformed(f"stream: {bad.name}", "stream", item)
    for what, given in UNKNOWN.items():
        request = pb.EmbedRequest(options=given, inputs=[text("a")])
        yield Malformed(f"unary: unknown {what}", "unary", request, ("NOT_FOUND",))
    for count in (0, 2049):
        request = pb.EmbedRequest(options=options(MODEL), inputs=[text("a")] * count)
        yield Malformed(f"unary: {count} inputs", "unary", request)
    for name, id in (("no id", ""), ("long id", "x" * 257)):
        item = pb.EmbedStreamRequest(id=id, options=options(MODEL), input=text("a"))
        yield Malformed(f"stream: {name}", "stream", item)


def _media() -> Iterator[Malformed]:
    for what, parts in (("picture", PICTURES), ("audio", AUDIO)):
        for name, part in parts.items():
            request = pb.EmbedRequest(options=options(MODEL), inputs=[pb.Input(parts=[part])])
            yield Malformed(f"{what}: {name}", "unary", request)


def _messages() -> Iterator[Malformed]:
    for name, (method, data, codes) in MESSAGES.items():
        yield Malformed(f"message: {name}", "message", (method, data), codes)


def _requests() -> Iterator[Malformed]:
    as_json = {"content-type": "application/json"}
    for body, status, _ in BAD:
        if body.get("model") == "":
            continue  # there is one model here, which needs no name
        content = json.dumps({"model": MODEL, **body})
        request = {"content": content, "headers": as_json}
        yield Malformed(f"body: {str(body)[:60]}", "http", request, (f"HTTP {status}",))
    for name, (url, body) in BODIES.items():
        request = {"url": url, "content": json.dumps(body), "headers": as_json}
        code = "HTTP 404" if "@1@2" in name else "HTTP 400"
        yield Malformed(f"body: {name}", "http", request, (code,))
    for name, data in CONTENTS.items():
        given: dict[str, Any] = {"content": data, "headers": as_json}
        yield Malformed(f"content: {name}", "http", given, ("HTTP 400",))
    for name, (arguments, codes) in HEADS.items():
        yield Malformed(f"request: {name}", "http", arguments, codes)


def in_turn(choose: random.Random) -> Iterator[Malformed]:
    """All kinds again and again, each time in another order."""
    all = kinds()
    while True:
        choose.shuffle(all)
        yield from all
