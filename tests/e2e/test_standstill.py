"""What a caller sends never makes the event loop stand still, and others are answered meanwhile."""

import contextlib
from collections.abc import Iterator
from typing import Any

import grpc
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.cases import options, text
from tests.e2e.grpc_calls import embed, failure
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

SERVICE = "/vlm2vec.v1.EmbeddingService"
INVALID = grpc.StatusCode.INVALID_ARGUMENT
BODY, MESSAGE = 60 << 20, 30 << 20
"""Bytes. gRPC itself copies a message several times while the event loop waits."""
LONGEST = "2.5"
"""Seconds, a bucket of the metric. Most of what is tried here took more, up to ten; it takes a
tenth of a second now, but other tests may run beside."""

JSON = {
    "empty lists": lambda: b'{"input": [' + b"[]," * (BODY // 3),
    "empty objects": lambda: b'{"input": [' + b"{}," * (BODY // 3),
    "keys": lambda: b"{" + b",".join(b'"%x":0' % i for i in range(1_000_000)) + b"}",
    "strings": lambda: b'{"input": [' + b'"",' * (BODY // 3),
    "quotes": lambda: b'{"input": ' + b'""' * (BODY // 2),
    "long numbers": lambda: b'{"input": [' + (b"9" * 4299 + b",") * 14_000 + b"1]}",
    "long fractions": lambda: b'{"input": [' + (b"0." + b"9" * 300 + b",") * 150_000 + b"1]}",
    "UTF-16": lambda: ('{"input": [' + "[]," * (BODY // 6)).encode("utf-16-le"),
    "a long model": lambda: b'{"model": "' + "€".encode() * (BODY // 3) + b'"}',
    "commas between frames": lambda: (
        b'{"input": {"video_url": "data:video/jpeg;base64,' + b"," * BODY + b'"}}'
    ),
    "a picture that is none": lambda: (
        b'{"input": {"image_url": "data:image/png;base64,' + b"AAAA" * (BODY // 4) + b'"}}'
    ),
    "a list of 100,000 lists": lambda: b'{"input": [' + b"[1]," * 99_999 + b"[1]]}",
    "token ids": lambda: b'{"input": [' + b"1," * 250_000 + b"1]}",
}


def field(number: int, data: bytes) -> bytes:
    """A field of protobuf with a length."""
    length, size = b"", len(data)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


INPUTS = {
    "empty parts": lambda: b"\x12\0" * (MESSAGE // 2),
    "unknown numbers": lambda: b"\x78\1" * (MESSAGE // 2),
    "groups": lambda: b"\x7b\x7c" * (MESSAGE // 2),
    "frames": lambda: field(2, field(3, field(2, b"\x0a\0" * (MESSAGE // 2)))),
    "packed token ids": lambda: field(4, b"\1" * MESSAGE),
    "a long text": lambda: field(2, field(1, "€".encode() * (MESSAGE // 3))),
    "a picture that is none": lambda: field(2, field(2, b"\1" * MESSAGE)),
    "100,000 empty parts": lambda: b"\x12\0" * 100_000,
}
"""Encodings of the message ``Input``."""
REQUESTS = {name: lambda make=make: field(2, make()) for name, make in INPUTS.items()} | {
    "empty inputs": lambda: b"\x12\0" * (MESSAGE // 2),
    "a long name": lambda: field(1, field(1, field(1, "€".encode() * (MESSAGE // 3)))),
}
"""Encodings of the message ``EmbedRequest``."""


@pytest.fixture
def stops(server: Server) -> Iterator[None]:
    """Holds that the event loop stood still no longer than `LONGEST` during a test."""

    def long_stops() -> float:
        counts = {
            sample.labels["le"]: sample.value
            for family in text_string_to_metric_families(server.metrics_text())
            for sample in family.samples
            if sample.name == "vlm2vec_event_loop_delay_seconds_bucket"
        }
        assert counts["+Inf"] > 0
        return counts["+Inf"] - counts[LONGEST]

    before = long_stops()
    yield
    assert long_stops() == before


@pytest.mark.usefixtures("stops")
@pytest.mark.parametrize("name", JSON)
def test_bodies_are_refused_and_stop_nobody(http: httpx.Client, name: str) -> None:
    headers = {"content-type": "application/json"}
    for path in ("/v1/embeddings", "/v1/rerank"):
        answer = http.post(path, content=JSON[name](), headers=headers)
        assert answer.status_code == 400
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert http.get("/healthz").status_code == 200


@pytest.mark.usefixtures("stops")
@pytest.mark.parametrize("name", REQUESTS)
def test_messages_are_refused_and_stop_nobody(server: Server, name: str) -> None:
    call: Any = server.channel.unary_unary(f"{SERVICE}/Embed", _plain, _plain)
    data = REQUESTS[name]()
    assert failure(call, data, timeout=60).code() == INVALID
    embed(server, text("a"))


@pytest.mark.usefixtures("stops")
@pytest.mark.parametrize("name", INPUTS)
def test_messages_of_streams_are_refused_and_stop_nobody(server: Server, name: str) -> None:
    call: Any = server.channel.stream_stream(f"{SERVICE}/EmbedStream", _plain, _plain)
    good = pb.EmbedStreamRequest(id="1", input=text("a"), options=options()).SerializeToString()
    bad = field(1, b"2") + field(3, INPUTS[name]())
    answered = call(iter([good, bad]), timeout=60)
    answers: dict[str, int] = {}
    with contextlib.suppress(grpc.RpcError):
        for data in answered:
            answer = pb.EmbedStreamResponse.FromString(data)
            answers[answer.id] = answer.error.code
    if answered.code() != grpc.StatusCode.OK:
        answers["2"] = answered.code().value[0]
    assert answers == {"1": 0, "2": INVALID.value[0]}


def _plain(data: bytes) -> bytes:
    return data
