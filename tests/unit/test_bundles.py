"""Inputs of a call that are prepared and queued together."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from tests.unit.pictures import png
from tests.unit.queueing import start, work
from tests.unit.scripted_worker import ScriptedWorker
from tests.unit.test_many_inputs import embed
from tests.unit.test_two_workers import TwoWorkers, run
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError, ServeError
from vlm2vec_service.frontend.preparation import MOST_TOGETHER, SHORT_BYTES, bundled
from vlm2vec_service.frontend.request import Asked
from vlm2vec_service.scheduling.fair_queue import Embedded, Flow, QueuedInput
from vlm2vec_service.scheduling.shares import Shares

LONG = "x" * (SHORT_BYTES + 1)


def text(words: str) -> pb.Input:
    return pb.Input(parts=[pb.Part(text=words)])


def picture() -> pb.Input:
    return pb.Input(parts=[pb.Part(image=png(4, 3))])


def sizes(inputs: list[pb.Input], most: int = 1000) -> list[int]:
    given = [Asked(str(number), one, lambda _: None) for number, one in enumerate(inputs)]
    bundles = list(bundled(given, most))
    found = [asked for bundle in bundles for asked in bundle.inputs]
    assert sorted(found, key=lambda asked: int(asked.field)) == given
    for bundle in bundles:
        nbytes = sum(asked.message.ByteSize() for asked in bundle.inputs)
        assert not bundle.is_short or bundle.nbytes == nbytes <= SHORT_BYTES
        assert bundle.is_short or len(bundle.inputs) == 1
    return [len(bundle.inputs) for bundle in bundles]


def test_short_texts_come_together_and_all_else_alone() -> None:
    assert sizes([text("a")]) == [1]
    assert sizes([text("a")] * (MOST_TOGETHER + 1)) == [MOST_TOGETHER, 1]
    assert sizes([text("a")] * 7, most=3) == [3, 3, 1]
    assert sizes([picture(), picture()]) == [1, 1]
    assert sizes([text("a"), picture(), text("b"), text(LONG), text("c")]) == [1, 1, 3]
    assert sizes([text("x" * (SHORT_BYTES // 2))] * 3) == [1, 1, 1]
    assert sizes([text("x" * (SHORT_BYTES // 3))] * 3) == [2, 1]


def test_answers_come_in_the_order_of_their_inputs(tmp_path: Path) -> None:
    inputs = [text(chr(65 + number % 26)) for number in range(70)]
    inputs[3], inputs[40] = text(LONG), picture()

    async def scene(two: TwoWorkers) -> None:
        answer = await embed(two, inputs)
        vectors = [np.frombuffer(one.vector.data, "<f4")[0] for one in answer.embeddings]
        firsts = [ord(one.parts[0].text[0]) if one.parts[0].text else 0 for one in inputs]
        assert vectors == firsts
        assert [one.tokens for one in answer.embeddings] == [1] * len(inputs)

    run(tmp_path, scene)


@pytest.mark.parametrize("bad", [0, 17, 31, 40])
def test_one_that_is_bad_is_named_and_counted_once(tmp_path: Path, bad: int) -> None:
    inputs = [text("A") for _ in range(41)]
    inputs[bad] = pb.Input(parts=[pb.Part()])

    async def scene(two: TwoWorkers) -> None:
        with pytest.raises(InvalidInputError) as refused:
            await embed(two, inputs)
        assert refused.value.field == f"inputs[{bad}].parts[0]"
        inputs_of = two.pipeline.metrics.inputs.labels
        invalid = inputs_of("m", "1", "INVALID_ARGUMENT")
        assert invalid._value.get() == 1
        assert two.pipeline.preparation.memory.taken == 0

    run(tmp_path, scene)


@pytest.mark.parametrize("bad", [0, 17, 40])
def test_one_that_the_device_has_no_memory_for_is_named(tmp_path: Path, bad: int) -> None:
    inputs = [text("A") for _ in range(41)]
    inputs[bad] = text("Z")

    async def full(batch: list[int]) -> None:
        if ord("Z") in batch:
            raise InvalidInputError("input", "out of memory")

    async def scene(two: TwoWorkers) -> None:
        await two.embed("A")
        for worker in two.workers:
            worker.behave = full
        with pytest.raises(InvalidInputError, match="out of memory") as refused:
            await embed(two, inputs)
        assert refused.value.field == f"inputs[{bad}]"

    run(tmp_path, scene)


def test_who_gives_up_takes_all_of_his_inputs_along() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        worker.ready = False
        scheduler, _ = start(worker)
        inputs = [work(number, tokens=2) for number in range(5)]
        running = asyncio.create_task(scheduler.run_all(inputs, lambda _: None))
        await asyncio.sleep(0)
        assert (scheduler.queue.requests, scheduler.queue.tokens) == (5, 10)
        running.cancel()
        await asyncio.wait([running])
        assert running.cancelled()
        assert (scheduler.queue.requests, scheduler.queue.tokens) == (0, 0)
        assert all(queued.future.cancelled() for queued in inputs)

    asyncio.run(check())


@pytest.mark.parametrize("first", [0, 2, 4])
def test_each_is_answered_when_it_is_and_who_raises_ends_the_others(first: int) -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        worker.ready = False
        scheduler, _ = start(worker)
        inputs = [work(number) for number in range(5)]
        answered: list[int] = []

        def take(queued: QueuedInput) -> None:
            answered.append(inputs.index(queued))
            if queued.future.exception() is not None:
                queued.future.result()

        running = asyncio.create_task(scheduler.run_all(inputs, take))
        await asyncio.sleep(0)
        before = (first + 1) % 5
        inputs[before].future.set_result(Embedded(np.zeros(1, np.float32), 0.0, 0.0))
        while not answered:
            await asyncio.sleep(0)
        assert not running.done()
        inputs[first].fail(ServeError("first"))
        with pytest.raises(ServeError, match="first"):
            await running
        assert answered == [before, first]
        assert scheduler.queue.requests == 0
        assert all(queued.future.done() for queued in inputs)

    asyncio.run(check())


def test_what_is_free_is_not_taken_before_who_waits() -> None:
    async def check() -> None:
        shares, own, other = Shares(10), Flow("own", True), Flow("other", True)
        assert shares.take_if_free(own, 5)
        assert not shares.take_if_free(own, 1), "it has half"
        waiting = asyncio.create_task(shares.wait(other, 4))
        await asyncio.sleep(0)
        assert not waiting.done()
        assert not shares.take_if_free(Flow("third", True), 1), "another waits for it"
        shares.give_back(own, 5)
        await waiting
        assert shares.taken == 4

    asyncio.run(check())
