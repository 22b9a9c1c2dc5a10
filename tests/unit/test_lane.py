"""How long a batch may take: by its tokens, by what is known of its worker, and from when on."""

import asyncio
from collections.abc import Callable, Mapping, Sequence

import pytest

from tests.unit.queueing import start, work
from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.errors import WorkerLostError
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult
from vlm2vec_service.scheduling.lane import FACTOR, FRESH, GRACE, SLOWEST, Batch, Lane

pytestmark = pytest.mark.usefixtures("still_clock")


def batch(tokens: int, interactive: bool = True) -> Batch:
    return Batch([work(0, tokens, interactive=interactive)])


@pytest.mark.parametrize(
    ("rate", "patience", "tokens", "limit"),
    [
        (0.0, FRESH, 20, FRESH * (GRACE + FACTOR * 20 / SLOWEST)),  # not yet learned
        (0.0, FRESH, 16384, 300.0),  # never more than the setting
        (1000.0, 1.0, 20, GRACE + FACTOR * 0.02),
        (1000.0, 1.0, 2000, GRACE + FACTOR * 2),
        (1000.0, FRESH, 2000, FRESH * (GRACE + FACTOR * 2)),
        (36000.0, 1.0, 16384, GRACE + FACTOR * 16384 / 36000),
        (50.0, 1.0, 2048, 300.0),
        (1000.0, 64.0, 1, 300.0),
    ],
)
def test_limit_of_a_batch(rate: float, patience: float, tokens: int, limit: float) -> None:
    async def check() -> None:
        lane = Lane(ScriptedWorker(), rate=rate, patience=patience)
        lane.sent(batch(tokens))
        assert lane.limit == pytest.approx(limit)

    asyncio.run(check())


def test_what_waits_behind_a_batch_counts_with_it() -> None:
    async def check() -> None:
        lane = Lane(ScriptedWorker(), rate=100.0, patience=1.0)
        for tokens in (100, 50, 150):
            lane.sent(batch(tokens))
        assert lane.limit == pytest.approx(GRACE + FACTOR * 3)

    asyncio.run(check())


def test_patience_after_answers_deaths_and_hangs() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        lane = Lane(worker)
        outcome: Exception | None = None

        async def behave(_: list[int]) -> None:
            if outcome is not None:
                raise outcome
            if worker.batch_timeout < 1:
                await asyncio.Event().wait()

        worker.behave = behave

        async def run() -> float:
            one = batch(1)
            lane.sent(one)
            try:
                await lane.run(one)
            except WorkerLostError:
                pass
            finally:
                lane.done(one)
            return lane.patience

        assert lane.patience == FRESH
        assert await run() == 1
        outcome = WorkerLostError("killed")
        assert await run() == FRESH
        assert await run() == FRESH
        outcome = None
        assert await run() == 1
        worker.batch_timeout = 0.01
        assert [await run() for _ in range(4)] == [2, 4, 8, 16]
        assert worker.hangs == 4
        worker.batch_timeout = 300.0
        assert await run() == 1
        lane.may_be_fresh()
        assert lane.patience == FRESH

    asyncio.run(check())


def test_two_that_come_back_at_once_teach_no_absurd_rate() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        lane = Lane(worker)
        first, second = batch(10), batch(10)
        gate = asyncio.Event()

        async def hold(_: list[int]) -> None:
            await gate.wait()

        worker.behave, worker.seconds = hold, 0.1
        lane.sent(first)
        lane.sent(second)
        runs = [asyncio.create_task(lane.run(one)) for one in (first, second)]
        await asyncio.sleep(0.01)
        gate.set()
        for run, one in zip(runs, (first, second), strict=True):
            await run
            lane.done(one)
        assert lane.rate <= 100.0 + 1e-6

    asyncio.run(check())


def test_the_time_that_a_batch_waits_in_the_worker_is_not_its_own() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=1)
        device = asyncio.Lock()

        async def one_at_a_time(_: list[int]) -> None:
            async with device:
                await asyncio.sleep(0.2)

        worker.behave, worker.batch_timeout = one_at_a_time, 0.35
        scheduler, _ = start(worker)
        answers = await asyncio.gather(*(scheduler.run(work(i)) for i in range(6)))
        assert [float(answer.vector[0]) for answer in answers] == list(range(6))
        assert worker.hangs == 0

    asyncio.run(check())


def test_a_hang_costs_what_the_limit_says() -> None:
    """The limit of 10 s and more is shortened by the setting, here; the rest is as in service."""

    async def check() -> None:
        worker = ScriptedWorker(token_budget=4)
        worker.batch_timeout = 0.1

        async def hang_once(batch: list[int]) -> None:
            if not worker.hangs:
                while not worker.hangs:
                    await asyncio.sleep(0.001)
                raise WorkerLostError("killed with the batch before it")

        worker.behave = hang_once
        scheduler, _ = start(worker)
        async with asyncio.timeout(2):
            answers = await asyncio.gather(*(scheduler.run(work(i)) for i in range(20)))
        assert [float(answer.vector[0]) for answer in answers] == list(range(20))
        assert worker.hangs == 1

    asyncio.run(check())


def test_an_urgent_batch_may_come_beside_one_that_waits() -> None:
    async def check() -> None:
        lane = Lane(ScriptedWorker())
        for one, urgent_may in ((batch(1), True), (batch(1, interactive=False), True)):
            lane.sent(one)
            assert lane.may_send(urgent=True) == urgent_may
        assert not lane.may_send(urgent=False)
        lane.sent(batch(1))
        assert not lane.may_send(urgent=True)

    asyncio.run(check())


def test_what_has_not_begun_in_a_shared_worker_is_neither_late_nor_to_blame() -> None:
    """Batches of other front ends may run before it, for as long as they take."""

    async def check(shared: bool, begins: bool) -> tuple[bool, float]:
        worker = ScriptedWorker()
        worker.shared = shared
        lane = Lane(worker, rate=1000.0, patience=1.0)
        one = batch(10)
        lane.sent(one)

        async def run(
            inputs: Sequence[BatchInput],
            interactive: bool,
            callers: Mapping[str, int] = one.callers,
            begun: Callable[[], None] = lambda: None,
        ) -> BatchResult:
            assert callers == {"a": 10}
            if begins:
                begun()
            assert one.clock is not None
            times.append((one.clock.when() or 0.0) - asyncio.get_running_loop().time())
            raise WorkerLostError("killed")

        times: list[float] = []
        worker.run = run  # type: ignore[method-assign]
        with pytest.raises(WorkerLostError):
            await lane.run(one)
        return one.waited, round(times[0])

    limit = round(GRACE + FACTOR * 0.01)
    assert asyncio.run(check(shared=True, begins=False)) == (True, 300)
    assert asyncio.run(check(shared=True, begins=True)) == (False, limit)
    assert asyncio.run(check(shared=False, begins=False)) == (False, limit)


def test_the_one_that_began_is_the_one_that_runs() -> None:
    async def check() -> None:
        lane = Lane(ScriptedWorker())
        first, second, third = (batch(1, interactive=False) for _ in range(3))
        for one in (first, second, third):
            lane.sent(one)
        lane._begun(third)
        assert lane.running is third
        assert lane.waiting == [first, second]
        lane._begun(second)  # told before the end of the one before it
        assert lane.running is third
        lane.done(third)
        assert lane.running is second
        lane.done(second)
        assert lane.running is first

    asyncio.run(check())
