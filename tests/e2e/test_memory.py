"""What requests hold of memory: within the budgets, and given back when they are answered."""

import base64
import io
import queue
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
from PIL import Image

from tests.e2e.cases import options, text
from tests.e2e.grpc_calls import embed, failure, stream
from tests.e2e.server import Server, memory, memory_peak, running_server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb

LEFT = 60 << 20
"""Bytes that may stay of several hundred millions: a thread or gRPC may have the last of them."""


def large_jpeg(side: int) -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).resize((side, side)).save(file, "JPEG")
    return file.getvalue()


def test_memory_is_given_back_after_a_burst_of_large_pictures(server: Server) -> None:
    """Within a minute, to a tenth of what there was before; the C library would keep ten times
    that."""
    pictures = [pb.Input(parts=[pb.Part(image=large_jpeg(side))]) for side in (3500, 4500, 5500)]
    embed(server, text("a"), pb.Input(parts=[pb.Part(image=large_jpeg(200))]))
    time.sleep(1)
    before = memory(server.process.pid)
    with ThreadPoolExecutor(8) as callers:
        for answer in [callers.submit(embed, server, *pictures) for _ in range(8)]:
            assert len(answer.result()) == 3
    assert memory_peak(server.process.pid) > 2 * before
    wait_until(lambda: memory(server.process.pid) < 1.1 * before, 60)


def test_an_idle_stream_keeps_nothing_of_what_it_sent(server: Server) -> None:
    before = memory(server.process.pid)
    sent: list[queue.SimpleQueue[pb.EmbedStreamRequest | None]] = [
        queue.SimpleQueue() for _ in range(6)
    ]
    streams = [server.embedding.EmbedStream(iter(requests.get, None)) for requests in sent]
    large = pb.Input(parts=[pb.Part(image=bytes(50 << 20))])
    for requests, answers in zip(sent, streams, strict=True):
        requests.put(pb.EmbedStreamRequest(id="1", options=options(), input=large))
        assert "max_image_bytes" in next(answers).error.message
    wait_until(lambda: memory(server.process.pid) < before + LEFT, 60)
    for requests, answers in zip(sent, streams, strict=True):
        requests.put(None)
        assert not list(answers)


def test_what_is_refused_leaves_nothing_behind(server: Server) -> None:
    """An error knows where it came from, and so, for long, the request."""

    def refuse(size: int) -> None:
        bad = pb.Input(parts=[pb.Part(image=bytes(size))])
        request = pb.EmbedRequest(options=options(), inputs=[bad, text("a")])
        assert failure(server.embedding.Embed, request).code() == grpc.StatusCode.INVALID_ARGUMENT

    refuse(1000)  # What is imported for the first refusal stays.
    before = memory(server.process.pid)
    for _ in range(10):
        refuse(25 << 20)
    wait_until(lambda: memory(server.process.pid) < before + LEFT, 60)


@pytest.mark.parametrize(
    "fault", [{}, {"input": [5]}, {"dimensions": "a"}, {"input": ["a"] * 5000}],
    ids=["picture", "shape", "type", "count"],
)  # fmt: skip
def test_what_is_refused_over_http_leaves_nothing_behind(
    server: Server, http: httpx.Client, fault: dict[str, Any]
) -> None:
    def refuse(size: int) -> None:
        uri = "data:;base64," + base64.b64encode(bytes(size)).decode()
        inputs = [{"image_url": uri}, *fault.get("input", "a")]
        body = {"model": "qwen", **fault, "input": inputs}
        assert http.post("/v1/embeddings", json=body).status_code == 400

    refuse(1000)
    before = memory(server.process.pid)
    for _ in range(10):
        refuse(18 << 20)
    wait_until(lambda: memory(server.process.pid) < before + LEFT, 60)


@pytest.fixture(scope="module")
def small(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server of which one caller may hold two million bytes."""
    flags = ["--model", f"qwen={checkpoints / 'qwen2_vl'}", "--max-received-bytes", "4000000"]
    with running_server(tmp_path_factory.mktemp("small"), *flags) as started:
        yield started


def padded(size: int) -> pb.Input:
    """An input with a picture of ``size`` bytes, most of which nobody reads."""
    picture = large_jpeg(40)
    return pb.Input(parts=[pb.Part(image=picture + bytes(size - len(picture)))])


def test_streams_wait_for_memory_and_are_answered(small: Server) -> None:
    image = padded(900_000)
    requests = [pb.EmbedStreamRequest(id=str(number), input=image) for number in range(20)]
    with ThreadPoolExecutor(4) as callers:
        streams = [callers.submit(stream, small, requests) for _ in range(4)]
        for answers in (one.result() for one in streams):
            assert len(answers) == 20
            assert {answer.WhichOneof("result") for answer in answers.values()} == {"embedding"}
    assert small.metric("held_bytes") == 0


def test_calls_are_refused_while_the_memory_is_held(small: Server) -> None:
    calls = [small.embedding.Embed.future(pb.EmbedRequest(inputs=[padded(900_000)] * 2))
             for _ in range(12)]  # fmt: skip
    errors = [error for call in calls if (error := call.exception()) is not None]
    assert 0 < len(errors) < 12
    for error in errors:
        assert isinstance(error, grpc.Call)
        assert error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "(max_received_bytes 4000000)" in str(error.details())
        assert dict(error.trailing_metadata())["retry-after-ms"] == "1000"
    assert small.metric("held_bytes") == 0


def test_what_never_has_room_is_refused_with_the_limit(small: Server) -> None:
    error = failure(small.embedding.Embed, pb.EmbedRequest(inputs=[padded(2_100_000)]))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "max_received_bytes, 4000000" in str(error.details())
    with httpx.Client(base_url=f"http://{small.http_address}", timeout=60) as client:
        answer = client.post("/v1/embeddings", json={"input": "a" * 700_000})
        assert answer.status_code == 400
        assert "max_received_bytes, 4000000" in answer.json()["error"]["message"]
        assert client.post("/v1/embeddings", json={"input": "a"}).status_code == 200
    assert small.metric("held_bytes") == 0
