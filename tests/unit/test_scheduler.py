"""The scheduler beside a worker that does what it is told: hold, die, fail."""

import asyncio
import time
from typing import cast

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.queueing import FOREVER, numbers, start, work
from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.errors import (
    AdapterError,
    DeadlineError,
    ExhaustedError,
    InvalidInputError,
    NotFoundError,
    ServeError,
    WorkerLostError,
)
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.fair_queue import BULK_EVERY, Embedded, FairQueue, Flow
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.scheduling.suspects import CRASHES

pytestmark = pytest.mark.usefixtures("still_clock")

ANNE = Flow("a", True)


def test_queue_takes_interactive_first_and_callers_in_turn() -> None:
    async def check() -> None:
        queue = FairQueue()
        for number in range(4):
            queue.put(work(number, caller="greedy"))
        queue.put(work(10, caller="modest"))
        queue.put(work(20, interactive=False))
        assert numbers(queue.take(3)) == [0, 10, 1]
        assert numbers(queue.take(9)) == [2, 3]
        assert numbers(queue.take(9)) == [20]
        assert (queue.tokens, queue.requests, queue.has_interactive) == (0, 0, False)

    asyncio.run(check())


def test_queue_keeps_the_budget_and_lets_a_long_input_run_alone() -> None:
    async def check() -> None:
        queue = FairQueue()
        for number, tokens in enumerate((3, 3, 50, 1)):
            queue.put(work(number, tokens))
        assert [numbers(queue.take(6)) for _ in range(4)] == [[0, 1], [2], [3], []]

    asyncio.run(check())


def test_bulk_is_never_starved() -> None:
    async def check() -> None:
        queue = FairQueue()
        queue.put(work(99, interactive=False))
        for number in range(50):
            queue.put(work(number))
        taken = [numbers(queue.take(1)) for _ in range(BULK_EVERY)]
        assert taken[-1] == [99]

    asyncio.run(check())


def test_a_place_for_urgent_work_is_for_nothing_else() -> None:
    async def check() -> None:
        queue = FairQueue()
        queue.put(work(99, interactive=False))
        for _ in range(2 * BULK_EVERY):
            assert queue.take(100, urgent=True) == []
        for number in range(2 * BULK_EVERY):
            queue.put(work(number))
            assert numbers(queue.take(100, urgent=True)) == [number]

    asyncio.run(check())


def test_dead_work_is_dropped_before_it_runs() -> None:
    async def check() -> None:
        queue = FairQueue()
        cancelled, expired = work(1), work(2, deadline=time.monotonic() - 1)
        cancelled.future.cancel()
        for item in (cancelled, expired, work(3)):
            queue.put(item)
        assert numbers(queue.take(100)) == [3]
        assert queue.tokens == 0
        with pytest.raises(DeadlineError):
            await expired.future

    asyncio.run(check())


def test_one_batch_runs_and_one_waits_and_an_interactive_one_overtakes() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=2)
        gate = asyncio.Event()

        async def hold(_: list[int]) -> None:
            await gate.wait()

        worker.behave = hold
        scheduler, _ = start(worker)
        bulk = [asyncio.create_task(scheduler.run(work(i, interactive=False))) for i in range(8)]
        await asyncio.sleep(0.01)
        assert worker.batches == [[0, 1], [2, 3]]
        query = asyncio.create_task(scheduler.run(work(100)))
        await asyncio.sleep(0.01)
        more = asyncio.create_task(scheduler.run(work(101)))
        await asyncio.sleep(0.01)
        # The query's batch holds no bulk work, and no second one overtakes.
        assert worker.batches[2:] == [[100]]
        gate.set()
        answers = await asyncio.gather(query, more, *bulk)
        assert [float(done.vector[0]) for done in answers] == [100, 101, *range(8)]
        assert worker.most_running == 3

    asyncio.run(check())


def test_work_waits_while_no_worker_is_ready() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        worker.ready = False
        scheduler, lane = start(worker)
        task = asyncio.create_task(scheduler.run(work(7)))
        await asyncio.sleep(0.01)
        assert not worker.batches
        worker.ready = True
        lane.wake.set()
        assert (await task).vector.tolist() == [7.0]

    asyncio.run(check())


def test_a_death_is_retried_with_everybody_in_it() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        deaths = 0

        async def die_once(_: list[int]) -> None:
            nonlocal deaths
            deaths += 1
            if deaths <= 2:  # both batches under way
                raise WorkerLostError("gone")

        worker.behave = die_once
        scheduler, _ = start(worker)
        answers = await asyncio.gather(*(scheduler.run(work(i)) for i in range(8)))
        assert [float(done.vector[0]) for done in answers] == list(range(8))
        # What only waited in the worker has nothing to do with its death.
        assert worker.batches[:3] == [[0, 1, 2, 3], [4, 5, 6, 7], [4, 5, 6, 7]]
        assert worker.batches[3:] == [[0], [1], [2], [3]]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("raised", "error", "attempts"),
    [
        (WorkerLostError("poison"), ServeError, 1 + CRASHES),
        (ServeError("poison"), ServeError, 2),
        (InvalidInputError("input", "poison"), InvalidInputError, 2),
        (NotFoundError("poison"), AdapterError, 2),
    ],
)
def test_poison_fails_alone(raised: ServeError, error: type[Exception], attempts: int) -> None:
    """With the others, then by itself (again where the worker died)."""

    async def check() -> None:
        worker = ScriptedWorker(token_budget=8)

        async def poisoned(batch: list[int]) -> None:
            if 5 in batch:
                raise raised

        worker.behave = poisoned
        scheduler, _ = start(worker)
        answers = await asyncio.gather(
            *(scheduler.run(work(i)) for i in range(8)), return_exceptions=True
        )
        assert isinstance(answers[5], error)
        for i in (0, 1, 2, 3, 4, 6, 7):
            answer = answers[i]
            assert isinstance(answer, Embedded)
            assert answer.vector.tolist() == [i]
        assert sum(5 in batch for batch in worker.batches) == attempts
        # Suspects run one at a time, or nobody could say which of two killed the worker.
        assert worker.most_running == 1

    asyncio.run(check())


def test_a_vector_that_is_not_finite_is_an_error_of_its_input() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        worker.vectors[2] = float("nan")
        scheduler, _ = start(worker)
        answers = await asyncio.gather(
            *(scheduler.run(work(i)) for i in range(4)), return_exceptions=True
        )
        with pytest.raises(ServeError, match="not a finite number"):
            raise cast(Exception, answers.pop(2))
        assert [float(cast(Embedded, done).vector[0]) for done in answers] == [0, 1, 3]
        assert worker.batches == [[0, 1, 2, 3]]

    asyncio.run(check())


def test_admission_refuses_with_a_hint_and_streams_wait_for_room() -> None:
    async def check() -> None:
        scheduler, _ = start(ScriptedWorker(), max_requests=4)
        scheduler.admit(ANNE, FOREVER)
        scheduler.admit(ANNE, FOREVER)
        with pytest.raises(ExhaustedError, match=r"max_queue_requests 4") as refused:
            scheduler.admit(ANNE, FOREVER)
        assert refused.value.retry_after is not None
        waiting = asyncio.create_task(scheduler.wait_for_place(ANNE))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        scheduler.release(ANNE)
        # The place is the stream's, although it has not run on yet.
        with pytest.raises(ExhaustedError):
            scheduler.admit(ANNE, FOREVER)
        await waiting

    asyncio.run(check())


def test_admission_refuses_what_the_deadline_cannot_see_done() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=1)

        async def slow(_: list[int]) -> None:
            await asyncio.sleep(0.05)

        worker.behave = slow
        scheduler, _ = start(worker)
        await scheduler.run(work(0))
        tasks = [asyncio.create_task(scheduler.run(work(i))) for i in range(50)]
        await asyncio.sleep(0.01)
        assert scheduler.expected_wait(ANNE) > 0.5
        with pytest.raises(ExhaustedError, match="longer than the deadline allows"):
            scheduler.admit(ANNE, time.monotonic() + 0.1)
        for task in tasks:
            task.cancel()

    asyncio.run(check())


def two_lanes() -> tuple[Scheduler, ScriptedWorker, ScriptedWorker]:
    """A scheduler with two workers, of which only the second could load the adapter "a"."""
    scheduler = Scheduler("m", 1000, 1000, Metrics(CollectorRegistry()))
    first, second = ScriptedWorker(name="first"), ScriptedWorker(name="second")
    first.refused["a"] = "no room"
    second.holds.append("a")
    for worker in (first, second):
        scheduler.add_worker(worker)
    return scheduler, first, second


def test_what_one_worker_could_not_load_is_answered_by_the_other() -> None:
    async def check() -> None:
        scheduler, first, second = two_lanes()
        mixed = [work(i, adapter="a" if i % 2 else "") for i in range(20)]
        answers = await asyncio.gather(*(scheduler.run(queued) for queued in mixed))
        assert [float(done.vector[0]) for done in answers] == list(range(20))
        assert all(number % 2 == 0 for batch in first.batches for number in batch)
        assert {1, 19} <= {number for batch in second.batches for number in batch}
        assert (scheduler.queue.tokens, scheduler.queue.requests) == (0, 0)

    asyncio.run(check())


def test_suspects_of_a_dead_worker_wait_for_one_that_has_their_adapter() -> None:
    async def check() -> None:
        scheduler, first, second = two_lanes()
        died = False

        async def die_once(_: list[int]) -> None:
            nonlocal died
            if not died:
                died = True
                raise WorkerLostError("gone")

        second.behave = die_once
        first.ready = False
        mixed = [work(i, adapter="a" if i % 2 else "") for i in range(4)]
        tasks = [asyncio.create_task(scheduler.run(queued)) for queued in mixed]
        await asyncio.sleep(0)
        first.ready = True
        answers = await asyncio.gather(*tasks)
        assert [float(done.vector[0]) for done in answers] == [0, 1, 2, 3]
        assert all(number % 2 == 0 for batch in first.batches for number in batch)

    asyncio.run(check())


def test_what_no_worker_could_load_is_refused_with_the_reason() -> None:
    async def check() -> None:
        scheduler, first, second = two_lanes()
        first.ready = second.ready = False
        waiting = asyncio.create_task(scheduler.run(work(1, adapter="a")))
        other = asyncio.create_task(scheduler.run(work(2)))
        await asyncio.sleep(0.01)
        second.refused["a"] = "no room either"
        first.ready = second.ready = True
        assert (await scheduler.run(work(3))).vector.tolist() == [3.0]
        with pytest.raises(AdapterError, match="could not be loaded: no room"):
            await waiting
        assert (await other).vector.tolist() == [2.0]
        assert (scheduler.queue.tokens, scheduler.queue.requests) == (0, 0)

    asyncio.run(check())


def test_a_few_slow_tokens_say_nothing_of_how_long_many_take() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=800)
        seconds = 0.2

        async def slow(_: list[int]) -> None:
            await asyncio.sleep(seconds)

        worker.behave = slow
        scheduler, lane = start(worker, max_tokens=100_000)
        await scheduler.run(work(0))
        assert not lane.measured
        hold = [asyncio.create_task(scheduler.run(work(i, 790))) for i in range(9)]
        await asyncio.sleep(0.01)
        # By the rate of that one token, the others would take twenty minutes.
        assert scheduler.expected_wait(ANNE) == 0.0
        seconds = 0.01
        await asyncio.gather(*hold)
        assert lane.measured
        rate = lane.rate
        seconds = 0.2
        await scheduler.run(work(0))
        assert lane.rate >= rate

    asyncio.run(check())
