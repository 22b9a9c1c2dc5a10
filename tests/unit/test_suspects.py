"""An input that kills or hangs workers: few deaths, others first, and no innocent input fails."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable

import pytest

from tests.unit.queueing import start, work
from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.errors import ServeError, WorkerLostError
from vlm2vec_service.scheduling.fair_queue import Embedded
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.scheduling.suspects import CRASHES, OTHERS_FIRST

pytestmark = pytest.mark.usefixtures("still_clock")


async def die(_: list[int]) -> None:
    raise WorkerLostError("killed")


async def hang(_: list[int]) -> None:
    await asyncio.Event().wait()


def poisoned(
    culprits: set[int], effect: Callable[[list[int]], Awaitable[None]]
) -> Callable[[list[int]], Awaitable[None]]:
    """What a worker does with a batch if ``effect`` is what the culprits have on it."""

    async def behave(batch: list[int]) -> None:
        if culprits.intersection(batch):
            await effect(batch)

    return behave


async def embed(scheduler: Scheduler, count: int) -> list[Embedded | BaseException]:
    """The answers of ``count`` inputs that are queued at once."""
    return await asyncio.gather(
        *(scheduler.run(work(number)) for number in range(count)), return_exceptions=True
    )


def assert_only(culprits: set[int], answers: list[Embedded | BaseException]) -> None:
    for number, answer in enumerate(answers):
        if number in culprits:
            assert isinstance(answer, ServeError)
            assert "takes the worker down" in str(answer)
        else:
            assert isinstance(answer, Embedded), (number, answer)
            assert answer.vector.tolist() == [number]


@pytest.mark.parametrize("effect", [die, hang])
@pytest.mark.parametrize(
    ("count", "deaths"),
    [
        (1, 1 + CRASHES),
        (8, 1 + CRASHES),
        (16, 1 + CRASHES),
        (64, 2 + CRASHES),
        (250, 2 + CRASHES),
        (1600, 3 + CRASHES),
    ],
)
def test_the_culprit_is_found_in_few_deaths_and_after_all_others(
    effect: Callable[[list[int]], Awaitable[None]], count: int, deaths: int
) -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=count)
        worker.batch_timeout = 0.2
        culprit = count * 2 // 3
        worker.behave = poisoned({culprit}, effect)
        scheduler, _ = start(worker, max_tokens=10_000)
        assert_only({culprit}, await embed(scheduler, count))
        fatal = [i for i, batch in enumerate(worker.batches) if culprit in batch]
        assert len(fatal) <= deaths
        assert worker.hangs == (len(fatal) if effect is hang else 0)
        # Everybody else has run before it is tried again alone for the last time, and those that
        # were not in its part before the part is.
        assert fatal[-1] == len(worker.batches) - 1
        parts = [i for i, batch in enumerate(worker.batches) if len(batch) > 1 or count <= 16]
        assert all(i <= parts[-1] for i in fatal[:2])
        assert worker.most_running == 1

    asyncio.run(check())


@pytest.mark.parametrize("effect", [die, hang])
@pytest.mark.parametrize("culprits", [{0, 1}, {0, 39}, {7, 20, 33}])
def test_several_culprits_fail_and_nobody_else(
    effect: Callable[[list[int]], Awaitable[None]], culprits: set[int]
) -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=40)
        worker.batch_timeout = 0.02
        worker.behave = poisoned(culprits, effect)
        scheduler, _ = start(worker)
        assert_only(culprits, await embed(scheduler, 40))

    asyncio.run(check())


def test_what_waits_in_the_queue_runs_before_the_culprit_is_tried_again() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=1)
        worker.behave = poisoned({0}, die)
        scheduler, _ = start(worker)
        answers = await embed(scheduler, OTHERS_FIRST)
        assert_only({0}, answers)
        tries = [i for i, batch in enumerate(worker.batches) if batch == [0]]
        assert tries[0] == 0
        assert len(tries) == 1 + CRASHES
        assert tries[1] >= OTHERS_FIRST

    asyncio.run(check())


def test_the_culprit_has_its_turn_under_any_load() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=1)
        worker.behave = poisoned({0}, die)
        scheduler, _ = start(worker)
        ended = asyncio.Event()

        async def load(number: int) -> None:
            while not ended.is_set():
                await scheduler.run(work(number, caller="b"))

        loads = [asyncio.create_task(load(number)) for number in range(1, 30)]
        await asyncio.sleep(0)
        with pytest.raises(ServeError, match="takes the worker down"):
            await asyncio.wait_for(scheduler.run(work(0)), 10)
        ended.set()
        await asyncio.gather(*loads)
        tries = [i for i, batch in enumerate(worker.batches) if batch == [0]]
        # Others were answered between any two deaths, but not without end.
        gaps = [later - earlier for earlier, later in itertools.pairwise(tries)]
        assert len(gaps) == CRASHES
        assert all(OTHERS_FIRST <= gap <= OTHERS_FIRST + 4 for gap in gaps), gaps

    asyncio.run(check())


def test_what_only_waited_in_the_worker_is_no_culprit() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=4)
        down = asyncio.Event()

        async def behave(batch: list[int]) -> None:
            if 2 in batch:
                down.set()
                raise WorkerLostError("killed")
            if len(worker.batches) == 2:
                await down.wait()
                raise WorkerLostError("killed with the batch before it")

        worker.behave = behave
        scheduler, _ = start(worker)
        assert_only({2}, await embed(scheduler, 8))
        assert worker.batches[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
        assert worker.batches[3:] == [[0], [1], [2], [3], [2]]

    asyncio.run(check())


@pytest.mark.parametrize("every", [8, 13, 50])
@pytest.mark.parametrize("seed", range(3))
def test_workers_that_die_by_chance_fail_nobody(every: int, seed: int) -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=32)
        runs = 0

        async def die_now_and_then(_: list[int]) -> None:
            nonlocal runs
            runs += 1
            if runs % every == 0:
                raise WorkerLostError("killed from outside")

        worker.behave = die_now_and_then
        scheduler, _ = start(worker)
        sizes = random.Random(seed)

        async def one(number: int) -> Embedded:
            await asyncio.sleep(sizes.random() / 20)
            return await scheduler.run(work(number, tokens=sizes.randint(1, 20)))

        answers = await asyncio.gather(*(one(number) for number in range(200)))
        assert [float(answer.vector[0]) for answer in answers] == list(range(200))

    asyncio.run(check())
