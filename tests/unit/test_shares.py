"""Shares of an amount, such as bytes: how much a flow may take, and that large ones get theirs."""

import asyncio

import pytest

from tests.unit.test_places import settle
from vlm2vec_service.scheduling.fair_queue import Flow
from vlm2vec_service.scheduling.shares import Shares

pytestmark = pytest.mark.usefixtures("still_clock")

A, B, C = (Flow(name, True) for name in "abc")


@pytest.mark.parametrize(
    ("held", "room"),
    [
        ({}, 500),
        ({A: 500}, 0),
        ({A: 100}, 400),
        ({B: 500}, 250),
        ({B: 500, C: 250}, 125),
        ({A: 100, B: 300}, 250),
        ({B: 1000}, 0),
    ],
)
def test_a_flow_never_has_more_than_it_leaves_free(held: dict[Flow, int], room: int) -> None:
    shares = Shares(1000)
    for flow, amount in held.items():
        shares.take(flow, amount)
    assert shares.has_room(A, room)
    assert not shares.has_room(A, room + 1)


def test_who_waits_for_much_is_not_overtaken_for_ever() -> None:
    async def check() -> None:
        shares = Shares(100)
        ended = asyncio.Event()

        async def small(flow: Flow) -> None:
            while not ended.is_set():
                await shares.wait(flow, 10)
                await asyncio.sleep(0)
                shares.give_back(flow, 10)

        tasks = [asyncio.create_task(small(flow)) for flow in (A, B) for _ in range(8)]
        await settle()
        assert not shares.has_room(C, 50)
        async with asyncio.timeout(5):
            await shares.wait(C, 50)
        assert shares.taken <= 100
        shares.give_back(C, 50)
        ended.set()
        await asyncio.gather(*tasks)
        assert shares.taken == 0

    asyncio.run(check())


def test_who_stops_waiting_for_much_lets_the_others_on() -> None:
    async def check() -> None:
        shares = Shares(100)
        shares.take(A, 40)
        large = asyncio.create_task(shares.wait(C, 50))
        small = asyncio.create_task(shares.wait(B, 10))
        await settle()
        assert not small.done()
        large.cancel()
        await settle()
        assert small.done()
        assert shares.taken == 50

    asyncio.run(check())
