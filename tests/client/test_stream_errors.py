"""Items of a stream that fail."""

import time
from typing import Any

import numpy as np
import pytest

import vlm2vec
from tests.client.conftest import Connect
from tests.client.server import Service
from tests.client.vectors import DIMENSION, text, texts, vector_of
from vlm2vec.v1 import embedding_pb2 as pb

INVALID, UNAVAILABLE, EXHAUSTED = 3, 14, 8


def test_item_errors_are_raised(client: Any, service: Service) -> None:
    error = pb.Error(code=INVALID, message="input.parts[0].text: no", field="input.parts[0].text")
    service.behaviour.item_error = lambda id: error if id == "x" else None
    with pytest.raises(vlm2vec.InvalidInput, match="no") as caught:
        list(client.stream([("a", "1"), ("x", "2"), ("b", "3")]))
    assert (caught.value.id, caught.value.field) == ("x", "input.parts[0].text")


def test_item_errors_are_yielded(client: Any, service: Service) -> None:
    error = pb.Error(code=INVALID, message="no", field="input")
    service.behaviour.item_error = lambda id: error if int(id) % 3 == 0 else None
    results = dict(client.stream(texts(300), on_error="yield"))
    assert len(results) == 300
    for id, result in results.items():
        if id % 3:
            np.testing.assert_array_equal(result, vector_of(text(f"text {id}")))
        else:
            assert isinstance(result, vlm2vec.InvalidInput)
            assert (result.id, result.field, result.message) == (id, "input", "no")


@pytest.mark.parametrize("code", [UNAVAILABLE, EXHAUSTED])
@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
def test_items_are_tried_again(client: Any, service: Service, code: int, twice: bool) -> None:
    service.behaviour.twice = twice
    tries: dict[str, list[float]] = {}

    def error(id: str) -> pb.Error | None:
        tries.setdefault(id, []).append(time.monotonic())
        if int(id) % 10 or len(tries[id]) > (6 if twice else 3):
            return None
        return pb.Error(code=code, message="busy", retry_after_seconds=0.05)

    service.behaviour.item_error = error
    results = list(client.stream(texts(100), window=8))
    assert sorted(id for id, _ in results) == list(range(100))
    times = 2 if twice else 1
    tries = {id: moments[::times] for id, moments in tries.items()}
    assert {len(tries[str(id)]) for id in range(0, 100, 10)} == {4}
    gaps = [np.diff(tries[str(id)]).min() for id in range(0, 100, 10)]
    assert min(gaps) >= 0.05
    assert service.most_unanswered <= 8


def test_tries_of_an_item_end(connect: Connect, service: Service) -> None:
    service.behaviour.item_error = lambda id: (
        pb.Error(code=UNAVAILABLE, message="busy", retry_after_seconds=0.001) if id == "1" else None
    )
    results = dict(connect(max_retries=2).stream(texts(3), on_error="yield"))
    assert isinstance(results[1], vlm2vec.Unavailable)
    assert results[1].retry_after == pytest.approx(0.001)
    assert results[0].shape == results[2].shape == (DIMENSION,)
    assert [request.id for request in service.stream_requests].count("1") == 3


def test_exhausted_without_a_hint_is_an_answer(client: Any, service: Service) -> None:
    service.behaviour.item_error = lambda id: pb.Error(code=EXHAUSTED, message="too large")
    results = dict(client.stream(["a"], on_error="yield"))
    assert isinstance(results[0], vlm2vec.ResourceExhausted)
    assert len(service.stream_requests) == 1
