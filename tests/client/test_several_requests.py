"""Calls of more inputs than fit into one request: what is sent ahead, what fails, what is cut."""

import itertools
import threading
from typing import Any

import grpc
import numpy as np
import pytest

import vlm2vec
from tests.client.conftest import Connect
from tests.client.server import Service
from tests.client.test_lifetime import until
from tests.client.vectors import DIMENSION, text, vector_of
from vlm2vec import unary_requests
from vlm2vec.v1 import embedding_pb2 as pb

PATIENCE = 60.0
QUICK, SLOW = float("inf"), 0.0
"""Limits below which any wait, or none, is that for a quick server."""


@pytest.fixture(params=["embed", "rank"])
def ask(request: pytest.FixtureRequest, client: Any) -> Any:
    """Sends texts in a call of either kind."""
    if request.param == "embed":
        return client.embed
    return lambda texts, **options: client.rank("query", texts, **options)


def texts(count: int) -> list[str]:
    return [f"text {index}" for index in range(count)]


def inputs_of(request: Any) -> Any:
    return request.candidates if isinstance(request, pb.RankRequest) else request.inputs


def test_four_requests_are_under_way(
    ask: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unary_requests, "_QUICK_SECONDS", QUICK)
    together = threading.Barrier(unary_requests.AT_ONCE)

    def wait_for_others(request: Any, context: Any) -> None:
        if len(service.calls) > 1:  # what the first is answered like is not known before
            together.wait(PATIENCE)

    service.behaviour.on_call = wait_for_others
    ask(texts(64 * (1 + unary_requests.AT_ONCE)))
    assert not together.broken


def test_a_slow_server_has_one_at_a_time(
    ask: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unary_requests, "_QUICK_SECONDS", SLOW)
    ask(texts(64 * 4 + 1))
    sent = [one.parts[0].text for request, _ in service.calls for one in inputs_of(request)]
    assert sent == texts(64 * 4 + 1)


def test_an_error_cancels_the_others(
    ask: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unary_requests, "_QUICK_SECONDS", QUICK)
    begun: list[str] = []
    given_up: list[str] = []

    def hang(request: Any, context: Any) -> None:
        first = inputs_of(request)[0].parts[0].text
        if first == "text 64":
            context.abort(grpc.StatusCode.INTERNAL, "a fault")
        if first != "text 0":
            stopped = threading.Event()
            begun.append(first)
            if not context.add_callback(stopped.set) or stopped.wait(PATIENCE):
                given_up.append(first)

    service.behaviour.on_call = hang
    with pytest.raises(vlm2vec.Internal, match="a fault"):
        ask(texts(64 * 5))
    until(lambda: len(given_up) == len(begun))


def test_a_failed_request_is_sent_again_by_itself(
    client: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unary_requests, "_QUICK_SECONDS", QUICK)
    numbers = itertools.count()

    def fail(request: Any, context: Any) -> None:
        if next(numbers) in (0, 3, 4):
            context.abort(grpc.StatusCode.UNAVAILABLE, "the worker is gone")

    service.behaviour.on_call = fail
    vectors = client.embed(texts(300))
    np.testing.assert_array_equal(vectors, [vector_of(text(words)) for words in texts(300)])
    assert len(service.calls) == 5 + 3


BUSY = (grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full", (("retry-after-ms", "1"),))


def test_many_inputs_wait_for_a_busy_server(connect: Connect, service: Service) -> None:
    client = connect(initial_backoff=0, max_retries=1)
    service.behaviour.unary_failures.extend([BUSY] * 20)
    assert client.embed(texts(65)).shape == (65, DIMENSION)
    service.behaviour.unary_failures.extend([BUSY] * 20)
    with pytest.raises(vlm2vec.ResourceExhausted, match="queue is full"):
        client.embed(texts(64))
    service.behaviour.unary_failures.clear()
    service.behaviour.unary_failures.extend([(grpc.StatusCode.UNAVAILABLE, "gone", ())] * 20)
    with pytest.raises(vlm2vec.Unavailable, match="gone"):
        client.embed(texts(65))


def test_who_wants_no_retries_does_not_wait(connect: Connect, service: Service) -> None:
    service.behaviour.unary_failures.append(BUSY)
    with pytest.raises(vlm2vec.ResourceExhausted):
        connect(max_retries=0).embed(texts(65))


@pytest.mark.parametrize(("count", "timeout", "limited"), [
    (64, None, True), (65, None, False), (65, 100.0, True)
])  # fmt: skip
def test_many_inputs_have_the_time_they_need(
    client: Any, service: Service, count: int, timeout: float | None, limited: bool
) -> None:
    left: list[float] = []
    service.behaviour.on_call = lambda request, context: left.append(context.time_remaining())
    client.embed(texts(count), timeout=timeout)
    # Where there is no limit, gRPC says that hundreds of years are left.
    assert [seconds < 1000 for seconds in left] == [limited] * len(left)


def test_large_inputs_go_by_bytes(
    connect: Connect, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unary_requests, "MAX_BYTES", 10_000)
    pictures = [bytes([n]) * size for n, size in enumerate([3_000] * 5 + [30_000, 10])]
    client = connect()
    assert len(client.embed([vlm2vec.Input(images=[data]) for data in pictures])) == 7
    sizes = sorted(request.ByteSize() for request, _ in service.calls)
    assert sizes[:-1] == [size for size in sizes if size <= 10_000]
    assert sizes[-1] > 30_000
    assert sorted(len(request.inputs) for request, _ in service.calls) == [1, 1, 2, 3]
