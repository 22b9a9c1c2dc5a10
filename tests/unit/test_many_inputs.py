"""One call of many inputs: how many of them are under way, and what that leaves to others."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.unit.test_two_workers import TwoWorkers, run
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import ExhaustedError, InvalidInputError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import Call, current
from vlm2vec_service.frontend.auth.quota import Bucket, Quota
from vlm2vec_service.frontend.holding import ByteBudget, Holding
from vlm2vec_service.frontend.pipeline import COMPONENT_BYTES
from vlm2vec_service.frontend.request import Caller
from vlm2vec_service.scheduling.fair_queue import Flow

MANY, WINDOW = 200, 30


def texts(count: int) -> list[pb.Input]:
    return [pb.Input(parts=[pb.Part(text=chr(65 + i % 26))]) for i in range(count)]


def on(
    folder: Path, check: Callable[[TwoWorkers, asyncio.Event], Coroutine[Any, Any, None]]
) -> None:
    """Runs ``check`` on a front end with a small window, whose workers hold their batches until the
    event is set."""

    async def scene(two: TwoWorkers) -> None:
        await two.embed("A")
        two.pipeline.settings = replace(two.pipeline.settings, stream_window=2 * WINDOW)
        go = asyncio.Event()

        async def hold(_: list[int]) -> None:
            await go.wait()

        for worker in two.workers:
            worker.behave = hold
        await check(two, go)

    run(folder, scene)


async def embed(two: TwoWorkers, inputs: list[pb.Input], caller: str = "many") -> pb.EmbedResponse:
    asks = Caller(caller, time.monotonic() + 60)
    return await calls.embed(two.pipeline, inputs, pb.CallOptions(), asks)


def test_a_window_of_a_call_is_under_way(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, go: asyncio.Event) -> None:
        places = two.pipeline.served["m"].scheduler.places
        answering = asyncio.create_task(embed(two, texts(MANY)))
        await asyncio.sleep(0.3)
        assert places.taken == WINDOW
        assert 0 < places.queue.requests <= WINDOW
        other = asyncio.create_task(embed(two, texts(1), "other"))
        await asyncio.sleep(0.1)
        go.set()
        assert len((await other).embeddings) == 1
        assert not answering.done(), "somebody else's call waited for all of it"
        found = [
            float(np.frombuffer(item.vector.data, "<f4")[0])
            for item in (await answering).embeddings
        ]
        assert found == [65.0 + i % 26 for i in range(MANY)]
        assert places.taken == 0

    on(tmp_path, check)


def test_what_is_prepared_stays_within_its_budget(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, go: asyncio.Event) -> None:
        two.pipeline.preparation.memory = budget = ByteBudget("max_prepared_bytes", 400_000)
        answering = asyncio.create_task(embed(two, texts(MANY)))
        await asyncio.sleep(0.3)
        assert 0 < budget.taken <= 200_000, "one caller has half of it"
        go.set()
        assert len((await answering).embeddings) == MANY
        assert budget.taken == 0

    on(tmp_path, check)


@pytest.mark.parametrize("index", [0, WINDOW, MANY - 1])
def test_a_bad_input_is_named_and_ends_the_call(tmp_path: Path, index: int) -> None:
    async def check(two: TwoWorkers, go: asyncio.Event) -> None:
        go.set()
        inputs = texts(MANY)
        inputs[index] = pb.Input(parts=[pb.Part()])
        with pytest.raises(InvalidInputError) as refused:
            await embed(two, inputs)
        assert refused.value.field == f"inputs[{index}].parts[0]"
        assert two.pipeline.served["m"].scheduler.places.taken == 0
        assert two.pipeline.preparation.memory.taken == 0

    on(tmp_path, check)


def test_each_input_is_paid_for(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, go: asyncio.Event) -> None:
        go.set()
        quota = Quota(tokens=Bucket(1.0, 50.0, clock=lambda: 0.0))
        asks = Caller("many", time.monotonic() + 60, quota=quota)
        await calls.embed(two.pipeline, texts(MANY), pb.CallOptions(), asks)
        with pytest.raises(ExhaustedError) as refused:
            quota.admit()
        assert refused.value.retry_after == MANY - 50, "each input has one token"

    on(tmp_path, check)


def test_answers_are_held_until_they_are_sent(tmp_path: Path) -> None:
    async def check(two: TwoWorkers, go: asyncio.Event) -> None:
        go.set()
        answered = MANY * COMPONENT_BYTES
        budget = ByteBudget("max_received_bytes", 3 * answered)

        def call() -> Call:
            made = Call("Embed", "unix:", "id", held=Holding(budget, Flow("many", True)))
            current.set(made)
            return made

        first = call()
        assert len((await embed(two, texts(MANY))).embeddings) == MANY
        assert budget.taken == answered
        call()
        with pytest.raises(ExhaustedError, match="max_received_bytes"):
            await embed(two, texts(MANY))
        assert first.held
        first.held.release()
        with pytest.raises(InvalidInputError, match=r"inputs: .* half of max_received_bytes"):
            await embed(two, texts(2 * MANY))
        assert budget.taken == 0

    on(tmp_path, check)
