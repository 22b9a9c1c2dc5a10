"""The scheduler beside a worker that does what it is told: hold, die, fail."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import cast

import grpc
import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.errors import DeadlineError, ExhaustedError, InvalidInputError, ServeError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.scheduling.fair_queue import BULK_EVERY, Done, FairQueue, Work
from vlm2vec_service.scheduling.scheduler import CRASHES, Lane, Scheduler

FOREVER = time.monotonic() + 1e6


def work(
    number: int = 0,
    tokens: int = 1,
    caller: str = "a",
    interactive: bool = True,
    deadline: float = FOREVER,
) -> Work:
    """Input ``number``, which is also its first token."""
    ids = np.full(tokens, number, np.int32)
    positions = np.broadcast_to(np.arange(tokens, dtype=np.int32), (3, tokens))
    future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
    return Work(Prepared(ids, positions), "", None, interactive, caller, deadline, future)


def numbers(works: list[Work]) -> list[int]:
    return [int(item.prepared.token_ids[0]) for item in works]


def batch_numbers(request: worker_pb2.RunBatchRequest) -> list[int]:
    return [int(np.frombuffer(item.token_ids, np.int32)[0]) for item in request.items]


def rpc_error(code: grpc.StatusCode, details: str = "") -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


class ScriptedWorker:
    """Answers each input with the vector ``[number]``, or the one in ``vectors``; ``behave`` may hold
    a batch up or raise."""

    def __init__(self, token_budget: int = 4) -> None:
        self.name = "scripted"
        self.token_budget = token_budget
        self.ready = True
        self.batches: list[list[int]] = []
        self.running = 0
        self.most_running = 0
        self.vectors: dict[int, float] = {}
        self.behave: Callable[[list[int]], Awaitable[None]] | None = None

    async def run_batch(self, request: worker_pb2.RunBatchRequest) -> worker_pb2.RunBatchResponse:
        batch = batch_numbers(request)
        self.batches.append(batch)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            await asyncio.sleep(0)
            if self.behave is not None:
                await self.behave(batch)
        finally:
            self.running -= 1
        vectors = [self.vectors.get(number, number) for number in batch]
        return worker_pb2.RunBatchResponse(vectors=np.array(vectors, np.float32).tobytes())


def start(
    worker: ScriptedWorker, max_requests: int = 1000, max_tokens: int = 1000
) -> tuple[Scheduler, Lane]:
    scheduler = Scheduler("m", max_requests, max_tokens, Metrics(CollectorRegistry()))
    return scheduler, scheduler.add_worker(worker)


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
                raise rpc_error(grpc.StatusCode.UNAVAILABLE)

        worker.behave = die_once
        scheduler, _ = start(worker)
        answers = await asyncio.gather(*(scheduler.run(work(i)) for i in range(8)))
        assert [float(done.vector[0]) for done in answers] == list(range(8))
        assert worker.batches == [[0, 1, 2, 3], [4, 5, 6, 7], [0, 1, 2, 3], [4, 5, 6, 7]]

    asyncio.run(check())


@pytest.mark.parametrize(
    ("code", "error", "attempts"),
    [
        (grpc.StatusCode.UNAVAILABLE, ServeError, 4 + CRASHES - 1),
        (grpc.StatusCode.INTERNAL, ServeError, 4),
        (grpc.StatusCode.INVALID_ARGUMENT, InvalidInputError, 4),
    ],
)
def test_poison_fails_alone(code: grpc.StatusCode, error: type[Exception], attempts: int) -> None:
    """Whole, (once more where the worker died,) by halves, then by itself."""

    async def check() -> None:
        worker = ScriptedWorker(token_budget=8)

        async def poisoned(batch: list[int]) -> None:
            if 5 in batch:
                raise rpc_error(code, "poison")

        worker.behave = poisoned
        scheduler, _ = start(worker)
        answers = await asyncio.gather(
            *(scheduler.run(work(i)) for i in range(8)), return_exceptions=True
        )
        assert isinstance(answers[5], error)
        for i in (0, 1, 2, 3, 4, 6, 7):
            answer = answers[i]
            assert isinstance(answer, Done)
            assert answer.vector.tolist() == [i]
        alone = code == grpc.StatusCode.UNAVAILABLE
        assert sum(5 in batch for batch in worker.batches) == attempts + alone
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
        assert [float(cast(Done, done).vector[0]) for done in answers] == [0, 1, 3]
        assert worker.batches == [[0, 1, 2, 3]]

    asyncio.run(check())


def test_admission_refuses_with_a_hint_and_streams_wait_for_room() -> None:
    async def check() -> None:
        scheduler, _ = start(ScriptedWorker(), max_requests=2)
        scheduler.admit(FOREVER)
        scheduler.admit(FOREVER)
        with pytest.raises(ExhaustedError, match=r"max_queue_requests 2") as refused:
            scheduler.admit(FOREVER)
        assert refused.value.retry_after is not None
        waiting = asyncio.create_task(scheduler.room())
        await asyncio.sleep(0.01)
        assert not waiting.done()
        scheduler.release()
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
        assert scheduler.expected_wait() > 0.5
        with pytest.raises(ExhaustedError, match="longer than the deadline allows"):
            scheduler.admit(time.monotonic() + 0.1)
        for task in tasks:
            task.cancel()

    asyncio.run(check())
