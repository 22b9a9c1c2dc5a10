"""What is small on the wire and large behind it, or has no end, is refused; others go on."""

import socket

import grpc
import pytest

from tests.e2e.cases import text
from tests.e2e.grpc_calls import embed
from tests.e2e.server import Server, memory_peak
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc


def test_what_is_compressed_is_refused_before_it_is_inflated(server: Server) -> None:
    embed(server, text("a"))
    before = memory_peak(server.process.pid)
    request = pb.EmbedRequest(inputs=[pb.Input(parts=[pb.Part(image=bytes(256 << 20))])])
    options = (("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1))
    with grpc.insecure_channel(server.address, options, grpc.Compression.Gzip) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        with pytest.raises(grpc.RpcError) as refused:
            stub.Embed(request, timeout=120)
    error = refused.value
    assert isinstance(error, grpc.Call)
    assert error.code() == grpc.StatusCode.UNIMPLEMENTED
    assert "gzip" in (error.details() or "")
    assert memory_peak(server.process.pid) < before + (64 << 20)
    embed(server, text("a"))


@pytest.mark.parametrize("head", [b"x-%d: " + b"a" * 1000 + b"\r\n", b"/%d" + b"a" * 1000])
def test_a_head_without_end_is_refused(server: Server, head: bytes) -> None:
    host, _, port = server.http_address.rpartition(":")
    in_url = head.startswith(b"/")
    with socket.create_connection((host, int(port)), 30) as connection:
        connection.sendall(b"GET /" if in_url else b"GET /v1/models HTTP/1.1\r\n")
        answer = b""
        try:
            for number in range(2000):
                connection.sendall(head % number)
            answer = connection.recv(4096)
        except (ConnectionResetError, BrokenPipeError):
            pass  # it was closed while we wrote
    assert answer.startswith(b"HTTP/1.1 400") or not answer
    embed(server, text("a"))


def test_parts_without_end_are_refused(server: Server) -> None:
    request = pb.EmbedRequest(inputs=[pb.Input(parts=[pb.Part()] * 100_000)])
    request.options.model.name = "qwen"
    with pytest.raises(grpc.RpcError) as refused:
        server.embedding.Embed(request, timeout=60)
    assert isinstance(refused.value, grpc.Call)
    assert refused.value.details() == "inputs[0].parts: 100000 are more than max_parts, 256"
