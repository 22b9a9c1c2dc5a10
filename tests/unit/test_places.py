"""Places in the queue: a share for every caller and priority, and turns for those who wait."""

import asyncio
import random
import time
from collections import Counter

import pytest

from tests.unit.queueing import FOREVER, start, work
from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.errors import ExhaustedError
from vlm2vec_service.scheduling.fair_queue import BULK_EVERY, FairQueue, Flow
from vlm2vec_service.scheduling.places import Places

pytestmark = pytest.mark.usefixtures("still_clock")


def fill(places: Places, flow: Flow) -> int:
    """Takes all the places that ``flow`` may have; how many those are."""
    taken = 0
    while places.has_room(flow):
        places.take(flow)
        taken += 1
    return taken


async def settle() -> None:
    """Lets every task run until it waits."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("most", "shares"),
    [
        (100, [50, 25, 13, 6, 3, 2, 1]),
        (4096, [2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2, 1]),
        (8, [4, 2, 1, 1]),
        (2, [1, 1]),
        (1, [1]),
    ],
)
def test_whoever_comes_finds_room_although_the_others_have_all_they_may(
    most: int, shares: list[int]
) -> None:
    places = Places(most, 1000, FairQueue())
    assert [fill(places, Flow(str(i), True)) for i in range(len(shares))] == shares
    assert places.taken <= most


@pytest.mark.parametrize("callers", [1, 2, 3, 7])
def test_flows_that_are_always_full_get_equal_shares(callers: int) -> None:
    places = Places(1000, 1000, FairQueue())
    flows = [Flow(str(i), i % 2 == 0) for i in range(callers)]
    fill(places, flows[0])
    moments = random.Random(0)
    for _ in range(20_000):
        flow = moments.choice(flows)
        if places.taken_by(flow):
            places.give_back(flow)
        for other in flows:
            if places.has_room(other):
                places.take(other)
    shares = [places.taken_by(flow) for flow in flows]
    assert all(abs(share - 1000 / (callers + 1)) <= 2 for share in shares), shares


def test_each_priority_of_a_caller_has_places_of_its_own() -> None:
    places = Places(100, 1000, FairQueue())
    fill(places, Flow("a", False))
    assert places.has_room(Flow("a", True))
    assert not places.has_room(Flow("a", False))


def test_tokens_are_shared_as_places_are() -> None:
    async def check() -> None:
        queue = FairQueue()
        places = Places(1000, 100, queue)
        greedy, bulk, modest = Flow("a", True), Flow("a", False), Flow("b", True)
        queue.put(work(tokens=50))
        assert not places.has_room(greedy)
        assert places.has_room(bulk)
        assert places.has_room(modest)
        queue.put(work(tokens=60, interactive=False))  # one long input may go beyond
        assert not places.has_room(modest)
        queue.take(100)
        assert queue.tokens == 60
        assert places.has_room(greedy)
        assert not places.has_room(bulk)

    asyncio.run(check())


def test_a_call_of_many_inputs_is_let_in_as_a_whole() -> None:
    places = Places(8, 1000, FairQueue())
    flow = Flow("a", True)
    places.take(flow, 64)
    assert not places.has_room(flow)
    assert not places.has_room(Flow("b", True))
    places.give_back(flow, 64)
    assert places.taken == 0
    assert places.has_room(flow)


def test_those_who_wait_get_places_in_turn_and_in_order() -> None:
    async def check() -> None:
        places = Places(4, 1000, FairQueue())
        full = Flow("full", True)
        places.take(full, 4)
        got: list[tuple[str, int]] = []

        async def wait(name: str, number: int) -> None:
            await places.wait(Flow(name, True))
            got.append((name, number))

        # Of one caller's many streams first, then of others'.
        order = [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1), ("c", 0)]
        tasks = [asyncio.create_task(wait(*one)) for one in order]
        await settle()
        assert got == []
        for name in ("full", "full", "full", "a", "b", "a"):
            places.give_back(Flow(name, True))
            await settle()
        await asyncio.gather(*tasks)
        assert got == [("a", 0), ("b", 0), ("c", 0), ("a", 1), ("b", 1), ("a", 2)]

    asyncio.run(check())


def test_waiting_never_goes_beyond_the_limit_and_all_get_in() -> None:
    async def check() -> None:
        places = Places(16, 1000, FairQueue())
        most, served = 0, Counter[str]()
        pauses = random.Random(0)

        async def one(name: str) -> None:
            nonlocal most
            flow = Flow(name, True)
            await places.wait(flow)
            most = max(most, places.taken)
            await asyncio.sleep(pauses.random() / 1000)
            places.give_back(flow)
            served[name] += 1

        names = [name for name in "aaaabbc" for _ in range(200)]
        async with asyncio.timeout(20):
            await asyncio.gather(*map(one, names))
        assert served == Counter(names)
        assert most <= 16
        assert places.taken == 0

    asyncio.run(check())


def test_who_stops_waiting_holds_nobody_up() -> None:
    async def check() -> None:
        places = Places(2, 1000, FairQueue())
        flow = Flow("a", True)
        places.take(flow)
        waiting = [asyncio.create_task(places.wait(flow)) for _ in range(5)]
        await settle()
        for task in waiting[:2]:
            task.cancel()
        places.give_back(flow)
        # It gets its place and is cancelled in the same moment.
        waiting[2].cancel()
        await settle()
        assert [task.cancelled() for task in waiting[:3]] == [True] * 3
        assert waiting[3].done()
        assert not waiting[4].done()
        places.give_back(flow)
        await waiting[4]
        assert places.taken == 1
        places.give_back(flow)
        assert places.taken == 0

    asyncio.run(check())


def test_places_that_cancelled_inputs_leave_are_handed_on() -> None:
    async def check() -> None:
        worker = ScriptedWorker()
        gate = asyncio.Event()

        async def hold(_: list[int]) -> None:
            await gate.wait()

        worker.behave = hold
        scheduler, _ = start(worker, max_tokens=20)
        flow = Flow("a", True)
        tasks = [asyncio.create_task(scheduler.run(work(i, tokens=4))) for i in range(6)]
        await settle()
        await settle()
        waiting = asyncio.create_task(scheduler.wait_for_place(flow))
        await settle()
        assert scheduler.queue.requests == 4
        assert not waiting.done()
        for task in tasks[2:]:  # they wait in the queue
            task.cancel()
        await settle()
        assert scheduler.queue.requests == 0
        assert scheduler.queue.tokens == 0
        await asyncio.wait_for(waiting, 5)
        gate.set()
        await asyncio.gather(*tasks[:2])

    asyncio.run(check())


def test_streams_of_one_caller_leave_room_for_the_calls_of_another() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=4)
        scheduler, _ = start(worker, max_requests=64)
        streams, calls = Flow("streams", True), Flow("calls", True)
        ended = asyncio.Event()

        async def stream(number: int) -> int:
            sent = 0
            while not ended.is_set():
                await scheduler.wait_for_place(streams)
                await scheduler.run(work(number, caller="streams"))
                scheduler.release(streams)
                sent += 1
            return sent

        reading = [asyncio.create_task(stream(i)) for i in range(20 * 16)]
        await settle()
        waits = []
        for number in range(200):
            scheduler.admit(calls, FOREVER)
            begun = time.monotonic()
            answer = await scheduler.run(work(1000 + number, caller="calls"))
            waits.append(time.monotonic() - begun)
            assert answer.vector.tolist() == [1000 + number]
            scheduler.release(calls)
        ended.set()
        sent = await asyncio.gather(*reading)
        # Nobody was refused, and no stream fell behind the others.
        assert min(sent) >= max(sent) - 2
        assert scheduler.places.taken == 0

    asyncio.run(check())


A, B = Flow("a", True), Flow("b", True)
BULK_A, BULK_B = Flow("a", False), Flow("b", False)


@pytest.mark.parametrize(
    ("queued", "flow", "before"),
    [
        ({}, A, 0),
        ({A: 100}, A, 100),
        ({A: 100}, B, 1),  # the next turn is its own
        ({A: 100, B: 5}, B, 5 + 6),
        ({A: 100, B: 5}, A, 105),
        ({A: 7, BULK_B: 1000}, A, 7 + 7 / (BULK_EVERY - 1)),
        ({BULK_B: 1000}, A, 0),
        ({BULK_A: 1000}, A, 0),
        ({BULK_A: 1000}, BULK_B, 1),
        ({BULK_A: 1000}, BULK_A, 1000),
        ({A: 30, BULK_A: 10}, BULK_B, 1 + 30),
        # One batch in so many is of bulk inputs, however much else waits.
        ({A: 10_000}, BULK_B, (BULK_EVERY - 1) * 8),
        ({A: 10_000, BULK_A: 100}, BULK_A, 100 + (BULK_EVERY - 1) * 108),
    ],
)
def test_tokens_that_run_before_the_next_input(
    queued: dict[Flow, int], flow: Flow, before: float
) -> None:
    async def check() -> None:
        queue = FairQueue()
        for one, count in queued.items():
            for _ in range(count):
                queue.put(work(caller=one.caller, interactive=one.interactive))
        assert queue.tokens_before(flow, token_budget=8) == pytest.approx(before)
        # Nothing is left of callers who are gone.
        while queue.take(100):
            pass
        assert queue.tokens == queue.tokens_before(flow, 8) == 0
        assert not queue._tokens

    asyncio.run(check())


def test_the_wait_that_is_told_is_the_callers_own() -> None:
    async def check() -> None:
        worker = ScriptedWorker(token_budget=1)

        async def slow(_: list[int]) -> None:
            await asyncio.sleep(0.02)

        worker.behave = slow
        scheduler, _ = start(worker)
        await scheduler.run(work())
        tasks = [asyncio.create_task(scheduler.run(work(i))) for i in range(100)]
        await settle()
        assert scheduler.expected_wait(A) > 1
        assert scheduler.expected_wait(B) < 0.2
        soon = time.monotonic() + 0.5
        with pytest.raises(ExhaustedError, match="longer than the deadline allows"):
            scheduler.admit(A, soon)
        scheduler.admit(B, soon)
        for task in tasks:
            task.cancel()

    asyncio.run(check())
