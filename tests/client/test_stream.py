"""Streams: what comes, and in which window."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import vlm2vec
from tests.client.server import Service
from tests.client.vectors import text, texts, vector_of
from vlm2vec.v1 import embedding_pb2 as pb


def test_every_item_once(client: Any, service: Service) -> None:
    service.behaviour.shuffle, service.behaviour.hold = True, 50
    results = list(client.stream(texts(1000)))
    assert sorted(id for id, _ in results) == list(range(1000))
    assert [id for id, _ in results] != list(range(1000))
    for id, vector in results:
        np.testing.assert_array_equal(vector, vector_of(text(f"text {id}")))
    assert len(service.streams) == 1


def test_nothing(client: Any) -> None:
    assert list(client.stream([])) == []


def test_ids_keep_their_type(client: Any) -> None:
    items = [("7", "a"), (8, "b"), ("ü" * 128, "c"), (-1, vlm2vec.Input(text="d"))]
    assert {id for id, _ in client.stream(items)} == {"7", 8, "ü" * 128, -1}


@pytest.mark.parametrize(
    ("items", "problem"),
    [
        ([("a", "x"), ("a", "y")], "'a' is given twice"),
        ([("1", "x"), (1, "y")], "1 is given twice"),
        ([("", "x")], "1 to 256 bytes"),
        ([("ü" * 129, "x")], "1 to 256 bytes"),
    ],
)
def test_bad_ids(client: Any, service: Service, items: Any, problem: str) -> None:
    service.behaviour.hold = 2
    with pytest.raises(ValueError, match=problem):
        list(client.stream(items))


def test_bad_arguments(client: Any) -> None:
    with pytest.raises(ValueError, match="window is 0"):
        client.stream([], window=0).__next__()
    with pytest.raises(ValueError, match="on_error is 'ignore'"):
        client.stream([], on_error="ignore").__next__()
    with pytest.raises(TypeError, match="id is int or str"):
        list(client.stream([(1.5, "a")]))
    with pytest.raises(TypeError, match="the item 0 is int: an input is"):
        list(client.stream([3]))


@pytest.mark.parametrize("window", [1, 2, 16])
def test_window(client: Any, service: Service, window: int) -> None:
    service.behaviour.hold = window + 1
    pulled = yielded = ahead = 0

    def items() -> Iterator[str]:
        nonlocal pulled, ahead
        for item in texts(window * 3 + 1):
            pulled += 1
            ahead = max(ahead, pulled - yielded)
            yield item

    for _ in client.stream(items(), window=window):
        yielded += 1
    assert yielded == window * 3 + 1
    assert service.most_unanswered == window
    assert ahead == window


def test_window_of_large_inputs_is_smaller(
    client: Any, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm2vec.window.MOST_BYTES", 3500)
    service.behaviour.hold = 5
    large = [vlm2vec.Input(images=[bytes(1000)])] * 9
    assert len(list(client.stream(large, window=16))) == 9
    assert service.most_unanswered == 4  # the one that went beyond it was taken


def test_bad_items_do_not_widen_the_window(client: Any) -> None:
    pulled = yielded = 0

    def items() -> Iterator[vlm2vec.Input]:
        nonlocal pulled
        for _ in range(100):
            pulled += 1
            assert pulled - yielded <= 4
            yield vlm2vec.Input(video="no such file")

    for _, result in client.stream(items(), window=4, on_error="yield"):
        assert isinstance(result, vlm2vec.InvalidInput)
        yielded += 1
    assert yielded == 100


def test_options_travel(client: Any, service: Service) -> None:
    items = ["a", vlm2vec.Input(text="b", instruction="own"), vlm2vec.Input(prompt="c")]
    options: Any = {"model": "m", "version": "2", "dtype": "binary", "dimensions": 4}
    for _, embedding in client.stream(items, instruction="given", details=True, **options):
        assert isinstance(embedding, vlm2vec.Embedding)
        assert np.abs(embedding.vector).tolist() == [1.0] * 4
    a, b, c = sorted(service.stream_requests, key=lambda request: request.id)
    assert [a.input, b.input, c.input] == [
        text("a", "given"),
        text("b", "own"),
        pb.Input(prompt="c"),
    ]
    assert a.options == b.options == c.options
    assert a.options.model == pb.ModelRef(name="m", version="2")
    assert a.options.priority == pb.PRIORITY_BULK
    list(client.stream(["a"], priority="interactive"))
    assert service.stream_requests[-1].options.priority == pb.PRIORITY_INTERACTIVE


def test_repeated_answers_are_ignored(client: Any, service: Service) -> None:
    service.behaviour.twice = True
    assert sorted(id for id, _ in client.stream(texts(200))) == list(range(200))


def test_version_switch(client: Any, service: Service) -> None:
    service.behaviour.switch_after = 50
    with pytest.raises(vlm2vec.SpaceChanged, match="space-1"):
        list(client.stream(texts(100)))
    service.behaviour.switch_after = 200
    spaces = {embedding.space for _, embedding in client.stream(texts(200), details=True)}
    assert spaces == {"space-1", "space-2"}


def test_deadline(client: Any, service: Service) -> None:
    service.behaviour.silent = True
    begin = time.monotonic()
    with pytest.raises(vlm2vec.DeadlineExceeded):
        list(client.stream(texts(10), timeout=0.3))
    assert time.monotonic() - begin < 10


def test_errors_of_the_source_are_the_callers(client: Any) -> None:
    def items() -> Iterator[str]:
        yield "a"
        raise KeyError("from the source")

    with pytest.raises(KeyError, match="from the source"):
        list(client.stream(items()))


def test_progress(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    list(client.stream(["a"] * 30, progress=True))
    assert "30/30" in capsys.readouterr().err


@pytest.mark.parametrize("takes_more", [True, False])
def test_what_waits_to_be_sent_goes_in_one_message_if_the_server_takes_that(
    client: Any, service: Service, takes_more: bool
) -> None:
    service.behaviour.takes_more, service.behaviour.hold = takes_more, 50
    texts_and_one_that_is_long = [*texts(500), "long " * 2000, *texts(500)]
    assert len(list(client.stream(texts_and_one_that_is_long, window=100))) == 1001
    (inbox,) = service.inboxes
    sizes = [len(message) for message in inbox.messages]
    assert sizes[0] == 1, "nothing is known of the server before its first answer"
    assert max(sizes) <= 64
    assert (max(sizes) > 1) is takes_more
    (long,) = (one for one in inbox.messages if len(one[0].input.parts[0].text) == 10_000)
    assert len(long) == 1
    assert sum(sizes) == 1001
