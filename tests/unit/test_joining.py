"""Calls of one short text that are answered together: each has its own outcome and its own end."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.test_two_workers import TwoWorkers, run
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import Code, DeadlineError, InvalidInputError, ServeError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import Call
from vlm2vec_service.frontend.joining import MOST_BYTES
from vlm2vec_service.frontend.loop import LOOK_SECONDS, FrontEndLoop, is_busy
from vlm2vec_service.frontend.preparation import MOST_TOGETHER, Bundle, Preparation
from vlm2vec_service.frontend.request import Caller

Scene = Callable[[TwoWorkers, list[int]], Coroutine[Any, Any, None]]
BULK = pb.CallOptions(priority=pb.PRIORITY_BULK)
BASE = pb.CallOptions(model=pb.ModelRef(version="base"), output=pb.OutputOptions(normalize=False))


def text(words: str) -> pb.Input:
    return pb.Input(parts=[pb.Part(text=words)])


async def embed(
    two: TwoWorkers,
    message: pb.Input,
    caller: str = "anne",
    options: pb.CallOptions | None = None,
    seconds: float = 60,
    call: Call | None = None,
) -> float:
    """The only component of the vector: the first byte of the text."""
    asks = Caller(caller, time.monotonic() + seconds, call=call)
    answer = await calls.embed(two.pipeline, [message], options or pb.CallOptions(), asks)
    return float(np.frombuffer(answer.embeddings[0].vector.data, "<f4")[0])


def on(folder: Path, monkeypatch: pytest.MonkeyPatch, check: Scene) -> None:
    """Runs ``check`` on a front end that joins what it can, and gives it the sizes of the bundles
    that were prepared. The first call goes alone: none like it is under way."""
    sizes: list[int] = []
    prepare = Preparation.prepare

    async def counted(self: Preparation, bundle: Bundle, *rest: Any) -> Any:
        sizes.append(len(bundle.inputs))
        return await prepare(self, bundle, *rest)

    monkeypatch.setattr(Preparation, "prepare", counted)

    async def scene(two: TwoWorkers) -> None:
        await two.embed("A")  # which has the version loaded
        sizes.clear()
        two.pipeline.joining.pays = lambda: True
        await check(two, sizes)
        places = two.pipeline.served["m"].scheduler.places
        assert (places.taken, places.queue.requests, places.queue.tokens) == (0, 0, 0)
        assert two.pipeline.preparation.memory.taken == 0

    run(folder, scene)


def counted(two: TwoWorkers, code: Code) -> float:
    return float(two.pipeline.metrics.inputs.labels("m", "1", code.name)._value.get())


def test_calls_that_come_together_are_prepared_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        words = [chr(65 + i % 26) for i in range(MOST_TOGETHER + 8)]
        found = await asyncio.gather(*(embed(two, text(one)) for one in words))
        assert found == [float(ord(one)) for one in words]
        assert sizes == [1, MOST_TOGETHER, 7]

    on(tmp_path, monkeypatch, check)


def test_only_what_is_alike_is_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        found = await asyncio.gather(
            embed(two, text("A")), embed(two, text("B")),
            embed(two, text("C"), caller="ben"),
            embed(two, text("D"), options=BULK), embed(two, text("E"), options=BULK),
            embed(two, text("F"), options=BASE),
            embed(two, text("G" * MOST_BYTES)),
            embed(two, pb.Input(prompt="H")),
        )  # fmt: skip
        assert found[:7] == [float(byte) for byte in b"ABCDEFG"]
        assert sorted(sizes) == [1, 1, 1, 1, 1, 1, 2]

    on(tmp_path, monkeypatch, check)


def test_nothing_waits_for_others_where_the_loop_has_little_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        two.pipeline.joining.pays = is_busy
        await asyncio.gather(*(embed(two, text("A")) for _ in range(5)))
        assert sizes == [1] * 5

    on(tmp_path, monkeypatch, check)


@pytest.mark.parametrize("bad", [0, 3, 7])
def test_one_that_is_bad_fails_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bad: int
) -> None:
    inputs = [text("A") for _ in range(8)]
    inputs[bad] = pb.Input(parts=[pb.Part()])

    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        asked = [embed(two, message) for message in inputs]
        found = await asyncio.gather(*asked, return_exceptions=True)
        error = found.pop(bad)
        assert isinstance(error, InvalidInputError)
        assert error.field == "inputs[0].parts[0]"
        assert found == [65.0] * 7
        assert sizes == [1, 7]
        assert counted(two, Code.INVALID_ARGUMENT) == 1

    on(tmp_path, monkeypatch, check)


def test_what_fails_for_all_fails_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        async def broken(*_: object) -> None:
            raise ServeError("no threads")

        monkeypatch.setattr(Preparation, "prepare", broken)
        asked = [embed(two, text("A")) for _ in range(5)]
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [str(error) for error in found] == ["no threads"] * 5
        assert counted(two, Code.INTERNAL) == 5

    on(tmp_path, monkeypatch, check)


async def stop_workers(two: TwoWorkers) -> asyncio.Event:
    """Has the workers hold their batches until the event is set."""
    go = asyncio.Event()

    async def hold(_: list[int]) -> None:
        await go.wait()

    for worker in two.workers:
        worker.behave = hold
    return go


@pytest.mark.parametrize("late", [0, 2, 5])
def test_a_deadline_ends_its_own_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, late: int
) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        go = await stop_workers(two)
        asked = [
            asyncio.create_task(embed(two, text("A"), seconds=0.5 if i == late else 60))
            for i in range(6)
        ]
        with pytest.raises(DeadlineError, match="before it was answered"):
            await asked[late]
        assert not any(one.done() for one in asked if one is not asked[late])
        go.set()
        found = await asyncio.gather(*asked, return_exceptions=True)
        assert [one for one in found if one != 65.0] == [found[late]]
        assert sizes == [1, 5]
        assert counted(two, Code.DEADLINE_EXCEEDED) == 1

    on(tmp_path, monkeypatch, check)


def test_who_gives_up_leaves_nothing_in_the_queue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        queue = two.pipeline.served["m"].scheduler.queue
        for worker in two.workers:
            worker.ready = False
        asked = [asyncio.create_task(embed(two, text("A"))) for _ in range(6)]
        while queue.requests < 6:
            await asyncio.sleep(0.001)
        for one in asked[:4]:
            one.cancel()
        await asyncio.wait(asked[:4])
        await asyncio.sleep(0)
        assert queue.requests == 2
        assert not any(one.done() for one in asked[4:])
        for worker, lane in zip(two.workers, two.lanes, strict=True):
            worker.ready = True
            lane.wake.set()
        assert await asyncio.gather(*asked[4:]) == [65.0, 65.0]
        assert counted(two, Code.CANCELLED) == 4

    on(tmp_path, monkeypatch, check)


def test_all_may_give_up_before_they_were_prepared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        before = sum(len(worker.batches) for worker in two.workers)
        asked = [asyncio.create_task(embed(two, text("A"))) for _ in range(3)]
        await asyncio.sleep(0)
        for one in asked:
            one.cancel()
        await asyncio.wait(asked)
        while counted(two, Code.CANCELLED) < 3:
            await asyncio.sleep(0.001)
        assert sum(len(worker.batches) for worker in two.workers) == before

    on(tmp_path, monkeypatch, check)


def test_each_call_has_its_own_tokens_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def check(two: TwoWorkers, sizes: list[int]) -> None:
        notes = [Call("Embed", "unix:", str(i)) for i in range(3)]
        await asyncio.gather(*(embed(two, text("A"), call=note) for note in notes))
        assert [(note.inputs, note.tokens) for note in notes] == [(1, 1)] * 3
        assert sizes == [1, 2]

    on(tmp_path, monkeypatch, check)


def test_a_loop_knows_how_busy_it_is() -> None:
    async def check() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, FrontEndLoop)
        idle, began = loop.idle_seconds, time.monotonic()
        await asyncio.sleep(3 * LOOK_SECONDS)
        rested = loop.idle_seconds - idle
        assert 2 * LOOK_SECONDS < rested <= time.monotonic() - began
        is_busy()
        await asyncio.sleep(2 * LOOK_SECONDS)
        assert not is_busy()
        idle, until = loop.idle_seconds, time.monotonic() + 2 * LOOK_SECONDS
        while time.monotonic() < until:
            await asyncio.sleep(0)
        assert is_busy()
        assert loop.idle_seconds == idle

    with asyncio.Runner(loop_factory=FrontEndLoop) as runner:
        runner.run(check())
