"""Requests whose bytes are no message of the API: answered, logged and counted like any other."""

from typing import Any

import grpc
import pytest

from tests.e2e.cases import options, text
from tests.e2e.grpc_calls import failure, trailers
from tests.e2e.server import Server, wait_until
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb

BYTES = {
    "cut off": pb.EmbedRequest(inputs=[text("a")]).SerializeToString()[:-1],
    "no such wire type": b"\x0f",
    "no UTF-8": b"\x0a\x04\x0a\x02\xff\xfe",
    "a long varint": b"\x80" * 20,
    "random": bytes(range(255, 0, -1)),
    "deep": b"\x0b" * 5000,
    "large": pb.EmbedRequest(inputs=[text("a" * 100_000)]).SerializeToString()[:-1],
}
UNARY = {
    "EmbeddingService": ("Embed", "Rank"),
    "AdapterService": (
        "ListAdapters", "DescribeAdapter", "PreloadAdapter", "UnloadAdapter", "WatchAdapters",
    ),
}  # fmt: skip
METHODS = [(service, method) for service, methods in UNARY.items() for method in methods]


def _plain(data: bytes) -> bytes:
    return data


def _method(channel: grpc.Channel, kind: str, service: str, method: str) -> Any:
    """A method that sends and receives bytes."""
    return getattr(channel, kind)(f"/vlm2vec.v1.{service}/{method}", _plain, _plain)


@pytest.mark.parametrize(("service", "method"), METHODS, ids=lambda item: str(item))
def test_malformed_requests_are_invalid(server: Server, service: str, method: str) -> None:
    watches = method == "WatchAdapters"
    kind = "unary_stream" if watches else "unary_unary"
    call = _method(server.channel, kind, service, method)
    labels = {"method": method, "code": "INVALID_ARGUMENT"}
    before = server.metric("requests_total", **labels)
    for number, data in enumerate(BYTES.values(), 1):
        given = (("x-request-id", f"malformed-{number}"),)
        error = failure(lambda *a, **k: list(call(*a, **k)) if watches else call(*a, **k), data,
                        metadata=given, timeout=30)  # fmt: skip
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert error.details().startswith("request: not in the API's protobuf format: ")
        assert trailers(error)["x-request-id"] == f"malformed-{number}"
    wait_until(lambda: server.metric("requests_total", **labels) == before + len(BYTES))
    assert f"vlm2vec.access: {method} INVALID_ARGUMENT" in server.log.read_text()


def test_a_malformed_request_ends_a_stream_behind_its_answers(server: Server) -> None:
    call = _method(server.channel, "stream_stream", "EmbeddingService", "EmbedStream")
    good = [
        pb.EmbedStreamRequest(id=id, input=text("a"), options=options()).SerializeToString()
        for id in ("1", "2", "3")
    ]
    labels = {"method": "EmbedStream", "code": "INVALID_ARGUMENT"}
    before = server.metric("requests_total", **labels)
    for data in BYTES.values():
        answers = call(iter([*good, data, good[0]]), timeout=30)
        found = [pb.EmbedStreamResponse.FromString(next(answers)) for _ in good]
        assert {answer.id for answer in found} == {"1", "2", "3"}
        assert all(answer.embedding.vector.dimension == 128 for answer in found)
        error = failure(list, answers)
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert "protobuf" in error.details()
        assert trailers(error)["x-request-id"]
    wait_until(lambda: server.metric("requests_total", **labels) == before + len(BYTES))


def test_health_and_reflection_are_told_as_well(server: Server) -> None:
    check = server.channel.unary_unary("/grpc.health.v1.Health/Check", _plain, _plain)
    watch = server.channel.unary_stream("/grpc.health.v1.Health/Watch", _plain, _plain)
    for data in (BYTES["no UTF-8"], BYTES["random"]):
        assert failure(check, data).code() == grpc.StatusCode.INVALID_ARGUMENT
        assert failure(list, watch(data)).code() == grpc.StatusCode.INVALID_ARGUMENT
    for version in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        reflect = server.channel.stream_stream(method, _plain, _plain)
        error = failure(list, reflect(iter([BYTES["random"]])))
        assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    server.wait_for(server.status())


def test_long_words_fit_into_a_status(server: Server) -> None:
    describe = server.adapters.DescribeAdapter
    for version in ("x" * 10**6, "é" * 10**6, "\n" * 10**6):
        request = adapters_pb2.DescribeAdapterRequest(model="qwen", version=version)
        error = failure(describe, request, timeout=30)
        assert error.code() == grpc.StatusCode.NOT_FOUND
        assert 100 < len(error.details()) <= 2000
        assert trailers(error)["x-request-id"]
    assert max(map(len, server.log.read_text().splitlines())) < 3000
