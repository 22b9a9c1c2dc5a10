"""Inputs by the batch, prepared ahead: whose vector is whose, and what is done meanwhile."""

import itertools
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest

from tests.unit.test_engine import make_engine, prepare
from vlm2vec_service.engine import Engine
from vlm2vec_service.offline.ahead import AHEAD, Failed, Ready, embed_ahead, in_threads
from vlm2vec_service.preprocess import Prepared

BUDGET = 100


def tokens(length: int) -> Prepared:
    return Prepared(np.zeros(length, np.int32), np.zeros((3, length), np.int32))


class LengthEngine:
    """Embeds an input as its length, once ``before`` was called with what is in its batch."""

    token_budget = BUDGET
    dim = 1

    def __init__(self, before: Any = lambda lengths: None) -> None:
        self.before = before

    def embed_each(
        self, batches: Iterable[Sequence[tuple[Prepared, str | None]]]
    ) -> Iterator[npt.NDArray[np.float32]]:
        for batch in batches:
            lengths = [len(prepared) for prepared, _ in batch]
            assert lengths, "a GPU has nothing to do with no input"
            self.before(lengths)
            yield np.array(lengths, np.float32)[:, None]


def embed(
    inputs: Iterable[Ready[int] | Failed[int]], engine: LengthEngine
) -> Iterator[tuple[list[int], list[float], list[int]]]:
    for batch, vectors in embed_ahead(cast(Engine, engine), inputs):
        ready, failed = ([one.key for one in ones] for ones in (batch.ready, batch.failed))
        yield ready, vectors[:, 0].tolist(), failed


def test_vectors_are_those_of_one_call(checkpoints: Path) -> None:
    engine = make_engine(checkpoints, "qwen2_vl", token_budget=256)
    ids = ("text", "image-portrait", "text-unicode", "image-two", "text-long")
    cases = prepare(checkpoints, "qwen2_vl", *ids)
    pairs = list(itertools.product(cases, ("dora", None, "lora")))
    inputs = (Ready(key, prepared, adapter) for key, (prepared, adapter) in enumerate(pairs))
    keys, found = [], []
    for batch, vectors in embed_ahead(engine, inputs):
        keys += [one.key for one in batch.ready]
        found.append(vectors)
    assert keys == list(range(len(pairs)))
    assert len(found) > 3
    np.testing.assert_allclose(np.concatenate(found), engine.embed(pairs), atol=1e-5)


@pytest.mark.parametrize("failing", [range(0), range(1), range(3, 9), range(500), [0, 499]])
def test_what_failed_takes_no_vector(failing: Sequence[int]) -> None:
    inputs = (
        Failed(key, ValueError()) if key in failing else Ready(key, tokens(1 + key % 30))
        for key in range(500)
    )
    embedded: list[int] = []
    failed: list[int] = []
    for keys, vectors, lost in embed(inputs, LengthEngine()):
        assert vectors == [1 + key % 30 for key in keys]
        assert sum(vectors) + len(lost) <= BUDGET
        embedded += keys
        failed += lost
    assert failed == list(failing)
    assert embedded == [key for key in range(500) if key not in failing]


def test_input_above_the_budget_goes_alone() -> None:
    inputs = [Ready(key, tokens(length)) for key, length in enumerate((BUDGET * 2, 1, BUDGET))]
    assert [keys for keys, _, _ in embed(inputs, LengthEngine())] == [[0], [1], [2]]


def test_next_batch_is_gathered_while_one_runs() -> None:
    asked = [threading.Event() for _ in range(5)]
    running = iter(range(5))

    def inputs() -> Iterator[Ready[int]]:
        for key in range(5):
            asked[key].set()
            yield Ready(key, tokens(BUDGET))

    def before(lengths: list[int]) -> None:
        # The one behind the next is asked for once the next is a whole batch.
        assert asked[min(next(running) + 2, 4)].wait(timeout=30)

    assert [keys for keys, _, _ in embed(inputs(), LengthEngine(before))] == [[n] for n in range(5)]


def test_only_so_much_is_read_ahead() -> None:
    numbers = itertools.count()
    ready = in_threads(lambda key: Ready(key, tokens(10)), numbers, 2)
    for _ in embed(ready, LengthEngine()):
        break
    assert next(numbers) <= AHEAD + 4 * BUDGET / 10


@pytest.mark.parametrize("at", [0, 5, 200])
def test_error_of_the_source_ends_it(at: int) -> None:
    def prepared(key: int) -> Ready[int]:
        if key == at:
            raise ZeroDivisionError
        return Ready(key, tokens(10))

    with pytest.raises(ZeroDivisionError):
        list(embed(in_threads(prepared, range(1000), 2), LengthEngine()))
