"""An input that took workers down is refused untried when it comes again, and no other is."""

import asyncio

import numpy as np
import pytest

from tests.unit.queueing import start, work
from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.errors import ServeError, WorkerLostError
from vlm2vec_service.preprocess.prepared import Media, Prepared
from vlm2vec_service.scheduling import suspects
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.scheduling.fair_queue import QueuedInput
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.scheduling.suspects import CRASHES

pytestmark = pytest.mark.usefixtures("still_clock")

POISON = 7


async def die_of_poison(batch: list[int]) -> None:
    if POISON in batch:
        raise WorkerLostError("killed")


def poisonable() -> tuple[Scheduler, ScriptedWorker]:
    """A scheduler whose worker dies of every input that begins with `POISON`."""
    worker = ScriptedWorker(token_budget=8)
    worker.behave = die_of_poison
    worker.holds = ["other"]
    scheduler, _ = start(worker)
    return scheduler, worker


async def refusal(scheduler: Scheduler, queued: QueuedInput) -> str:
    with pytest.raises(ServeError) as caught:
        await asyncio.wait_for(scheduler.run(queued), 10)
    return str(caught.value)


def counted(scheduler: Scheduler) -> float:
    metric = scheduler.metrics.fatal_inputs.labels(scheduler.model)
    return float(next(iter(metric.collect())).samples[0].value)


def seen(number: int) -> QueuedInput:
    """`POISON` with an image of one colour."""
    queued = work(POISON, tokens=4)
    media = Media.of("image", np.full((1, 2, 2, 3), number, np.uint8), 1, 2)
    given = queued.input.prepared
    queued.input = BatchInput(Prepared(given.token_ids, given.positions, (media,)))
    return queued


def test_it_is_refused_at_once_and_the_workers_live() -> None:
    async def check() -> None:
        scheduler, worker = poisonable()
        first = await refusal(scheduler, work(POISON))
        deaths = len(worker.batches)
        assert deaths == 1 + CRASHES
        for caller, interactive in (("a", True), ("b", False)):
            again = work(POISON, caller=caller, interactive=interactive)
            assert await refusal(scheduler, again) == first
        assert len(worker.batches) == deaths
        assert counted(scheduler) == 3
        assert (await scheduler.run(work(1))).vector.tolist() == [1]

    asyncio.run(check())


def test_copies_that_were_being_tried_are_refused_with_it() -> None:
    async def check() -> None:
        scheduler, worker = poisonable()
        copies = [refusal(scheduler, work(POISON, tokens=8)) for _ in range(20)]
        others = [scheduler.run(work(number, caller="b")) for number in range(POISON)]
        assert len(set(await asyncio.gather(*copies))) == 1
        assert [answer.vector.tolist() for answer in await asyncio.gather(*others)] == [
            [number] for number in range(POISON)
        ]
        deaths = sum(POISON in batch for batch in worker.batches)
        assert deaths < 2 * len(copies)  # one by one, they would be three times as many

    asyncio.run(check())


@pytest.mark.parametrize(
    "another",
    [
        lambda: work(POISON, tokens=3),
        lambda: work(POISON, tokens=4, adapter="other"),
        lambda: seen(1),
        lambda: seen(2),
    ],
    ids=["tokens", "adapter", "image", "other image"],
)
def test_what_differs_from_it_in_anything_is_tried(another: object) -> None:
    async def check() -> None:
        scheduler, worker = poisonable()
        for poison in (work(POISON, tokens=4), seen(3)):
            await refusal(scheduler, poison)
        worker.behave = None
        assert callable(another)
        assert (await scheduler.run(another())).vector.tolist() == [POISON]
        for poison in (work(POISON, tokens=4), seen(3)):
            await refusal(scheduler, poison)

    asyncio.run(check())


def test_what_fails_without_a_death_is_tried_again() -> None:
    async def check() -> None:
        scheduler, worker = poisonable()

        async def fail(_: list[int]) -> None:
            raise ServeError("out of memory")

        worker.behave = fail
        assert await refusal(scheduler, work(1)) == "out of memory"
        worker.behave = None
        assert (await scheduler.run(work(1))).vector.tolist() == [1]

    asyncio.run(check())


def test_after_a_while_it_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "REFUSED_SECONDS", 0.2)

    async def check() -> None:
        scheduler, worker = poisonable()
        await refusal(scheduler, work(POISON))
        await refusal(scheduler, work(POISON))
        assert len(worker.batches) == 1 + CRASHES
        worker.behave = None
        await asyncio.sleep(0.25)
        assert (await scheduler.run(work(POISON))).vector.tolist() == [POISON]

    asyncio.run(check())


def test_the_oldest_is_forgotten_where_there_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects, "REMEMBERED", 2)

    async def check() -> None:
        scheduler, worker = poisonable()
        for tokens in (1, 2, 3):
            await refusal(scheduler, work(POISON, tokens=tokens))
        worker.behave = None
        assert (await scheduler.run(work(POISON, tokens=1))).vector.tolist() == [POISON]
        for tokens in (2, 3):
            await refusal(scheduler, work(POISON, tokens=tokens))

    asyncio.run(check())
