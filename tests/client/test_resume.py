"""Streams over connections that break: nothing lost, nothing twice."""

import itertools
import random
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
import numpy as np
import pytest

import vlm2vec
from tests.client.conftest import Connect
from tests.client.server import Service, start
from tests.client.vectors import text, texts, vector_of
from vlm2vec.v1 import embedding_pb2 as pb


def lives(seed: int, longest: int) -> Iterator[int]:
    """After how many answers each stream breaks."""
    order = random.Random(seed)
    while True:
        yield order.randrange(1, longest)


@pytest.mark.parametrize("drain", [False, True], ids=["broken", "drained"])
def test_many_breaks(client: Any, service: Service, drain: bool) -> None:
    service.behaviour.stream_lives = lives(11, 120)
    service.behaviour.shuffle = True
    service.behaviour.drain = drain
    results = list(client.stream(texts(5000)))
    assert len(service.streams) > 40
    assert sorted(id for id, _ in results) == list(range(5000))
    for id, vector in results[::97]:
        np.testing.assert_array_equal(vector, vector_of(text(f"text {id}")))
    assert service.most_unanswered <= 256


def test_breaks_and_errors_of_items(client: Any, service: Service) -> None:
    service.behaviour.stream_lives = lives(5, 60)
    seen: dict[str, int] = {}

    def error(id: str) -> pb.Error | None:
        seen[id] = seen.get(id, 0) + 1
        if int(id) % 7 == 0 and seen[id] < 3:
            return pb.Error(code=14, message="busy", retry_after_seconds=0.02)
        return pb.Error(code=3, message="bad") if int(id) % 11 == 0 else None

    service.behaviour.item_error = error
    results = list(client.stream(texts(1000), window=20, on_error="yield"))
    assert sorted(id for id, _ in results) == list(range(1000))
    failed = {id for id, result in results if isinstance(result, vlm2vec.VLM2VecError)}
    assert failed == set(range(0, 1000, 11))
    assert service.most_unanswered <= 20


def test_media_are_sent_again(client: Any, service: Service) -> None:
    service.behaviour.stream_lives = itertools.chain([2], itertools.repeat(1000))
    items = [vlm2vec.Input(images=[bytes([index]) * 100_000]) for index in range(20)]
    for id, vector in client.stream(items):
        sent = pb.Input(parts=[pb.Part(image=bytes([id]) * 100_000)])
        np.testing.assert_array_equal(vector, vector_of(sent))
    assert len(service.streams) == 2


def test_breaks_without_an_answer_end_the_stream(connect: Connect, service: Service) -> None:
    service.behaviour.stream_lives = itertools.chain([10], itertools.repeat(0))
    stream = connect(max_retries=3).stream(texts(100))
    found = [next(stream) for _ in range(10)]
    with pytest.raises(vlm2vec.Unavailable, match="the worker is gone"):
        next(stream)
    assert len(found) == 10
    assert len(service.streams) == 4


def test_early_ends_without_an_answer_end_the_stream(connect: Connect, service: Service) -> None:
    service.behaviour.stream_lives = itertools.repeat(0)
    service.behaviour.drain = True
    with pytest.raises(vlm2vec.Unavailable, match="the server ended the stream"):
        list(connect(max_retries=2).stream(texts(10)))
    assert len(service.streams) == 3


def test_other_failures_are_not_resumed(client: Any, service: Service) -> None:
    service.behaviour.stream_lives = itertools.repeat(0)
    service.behaviour.stream_failure = (grpc.StatusCode.UNAUTHENTICATED, "who are you?", ())
    for attempt in range(1, 21):
        with pytest.raises(vlm2vec.Unauthenticated, match="who are you"):
            list(client.stream(["words " * 1000] * 500))
        assert len(service.streams) == attempt


def test_hint_of_a_broken_stream_is_the_least_wait(client: Any, service: Service) -> None:
    service.behaviour.stream_lives = iter([5, 1000])
    trailers = (("retry-after-ms", "300"),)
    service.behaviour.stream_failure = (grpc.StatusCode.RESOURCE_EXHAUSTED, "later", trailers)
    begin = time.monotonic()
    assert len(list(client.stream(texts(20)))) == 20
    assert time.monotonic() - begin >= 0.3


@pytest.mark.parametrize("grace", [None, 0.2], ids=["killed", "graceful"])
def test_server_restarts(connect: Connect, grace: float | None) -> None:
    service = Service()
    service.behaviour.shuffle = True
    server = start(service)
    client = connect(server=service.address, initial_backoff=0.2, max_retries=20)
    found: list[int] = []

    def start_again() -> None:
        nonlocal server
        server = start(service, service.address)

    for id, _ in client.stream(texts(2000), window=64):
        found.append(id)
        if len(found) in (300, 900):
            server.stop(grace).wait()
            # The stream goes on meanwhile, and finds nobody there.
            restart = threading.Timer(0.3, start_again)
            restart.start()
    restart.join()
    server.stop(None).wait()
    assert sorted(found) == list(range(2000))
    assert len(service.streams) >= 3


@pytest.mark.parametrize("grace", [None, 0.2], ids=["killed", "graceful"])
def test_embed_goes_on_when_the_server_restarts(connect: Connect, grace: float | None) -> None:
    service = Service()
    servers = [start(service)]
    client = connect(server=service.address, initial_backoff=0.2, max_retries=20)
    numbers, asked = itertools.count(), threading.Event()

    def count(request: Any, context: Any) -> None:
        if next(numbers) == 5:
            asked.set()

    def restart() -> None:
        asked.wait(60)
        servers[0].stop(grace).wait()
        servers.append(start(service, service.address))

    service.behaviour.on_call = count
    thread = threading.Thread(target=restart)
    thread.start()
    given = list(texts(1000))
    np.testing.assert_array_equal(client.embed(given), [vector_of(text(one)) for one in given])
    thread.join()
    servers[1].stop(None).wait()
