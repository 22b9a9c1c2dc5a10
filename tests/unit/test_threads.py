"""Threads that preprocess: shared by callers in turn, and free again when what ran has stopped."""

import asyncio
import threading
import time
from collections.abc import Callable

import pytest

from tests.unit.test_places import settle
from vlm2vec_service.errors import DeadlineError, InvalidInputError
from vlm2vec_service.frontend.threads import Threads
from vlm2vec_service.preprocess.stop import Stop
from vlm2vec_service.scheduling.fair_queue import BULK_EVERY, Flow

A, B, C, D = (Flow(name, True) for name in "abcd")
BULK = Flow("a", False)


class Gate:
    """Work that begins, is noted, and ends when it is let go on."""

    def __init__(self, threads: Threads) -> None:
        self.threads = threads
        self.begun: list[str] = []
        self.gates: dict[str, threading.Event] = {}

    def start(self, flow: Flow, name: str) -> asyncio.Task[str]:
        """Asks for a thread for ``flow``, in which the work ``name`` waits for `end`."""
        self.gates[name] = threading.Event()

        def work() -> str:
            self.begun.append(name)
            assert self.gates[name].wait(30)
            return name

        return asyncio.create_task(self.threads.run(flow, Stop(), work))

    async def end(self, task: asyncio.Task[str], name: str) -> None:
        """Lets ``name`` go on, until another may have its thread."""
        self.gates[name].set()
        assert await task == name
        await settle()

    async def begins(self, index: int) -> str:
        """Waits for the work that begins as number ``index``, and tells its name."""
        await until(lambda: len(self.begun) > index)
        return self.begun[index]

    async def until(self, *names: str) -> None:
        """Until exactly ``names`` have begun, in any order."""
        await until(lambda: len(self.begun) >= len(names))
        await settle()
        assert sorted(self.begun) == sorted(names)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.001)


@pytest.mark.parametrize("most", [1, 2, 4])
def test_one_caller_leaves_threads_to_the_others(most: int) -> None:
    async def check() -> None:
        threads = Threads("test", most)
        gate = Gate(threads)
        heavy = {f"a{i}": gate.start([A, BULK][i % 2], f"a{i}") for i in range(most + 3)}
        first = list(heavy)[:most]
        await gate.until(*first)
        assert threads.waiting == 3
        others = [f"b{i}" for i in range(2 * BULK_EVERY)]
        for name in others:  # at once, however long the first take
            await gate.end(gate.start(B, name), name)
        assert gate.begun[most:] == others
        for name in heavy:
            gate.gates[name].set()
        assert await asyncio.gather(*heavy.values()) == list(heavy)
        await settle()
        assert threads.taken == 0
        assert threads.waiting == 0

    asyncio.run(check())


@pytest.mark.parametrize("first", [[A, A], [A, B], [A, BULK, B], [B, A, A, BULK]])
@pytest.mark.parametrize("most", [1, 2, 4])
def test_two_callers_leave_a_thread_to_a_third(most: int, first: list[Flow]) -> None:
    async def check() -> None:
        threads = Threads("test", most)
        gate = Gate(threads)
        asking = [*first * (most + 2), A, B, BULK]
        heavy = {f"{i}": gate.start(flow, f"{i}") for i, flow in enumerate(asking)}
        await settle()
        taken = threads.taken
        assert most <= taken <= most + 1
        for i in range(2 * BULK_EVERY):  # at once, however long the others take
            await gate.end(gate.start(C, f"c{i}"), f"c{i}")
        assert (threads.taken, len(gate.begun)) == (taken, taken + 2 * BULK_EVERY)
        for name in heavy:
            gate.gates[name].set()
        assert await asyncio.gather(*heavy.values()) == list(heavy)
        await settle()
        assert (threads.taken, threads.waiting) == (0, 0)

    asyncio.run(check())


def test_callers_take_turns_and_interactive_work_comes_first() -> None:
    async def check() -> None:
        threads = Threads("test", 1)
        gate = Gate(threads)
        holding = [gate.start(flow, f"hold {flow.caller}") for flow in (A, B, D)]
        await gate.until("hold a", "hold b", "hold d")
        order = [(BULK, "bulk"), (A, "a0"), (A, "a1"), (A, "a2"), (C, "c0"), (C, "c1"), (B, "b0")]
        tasks = {name: gate.start(flow, name) for flow, name in order}
        await settle()
        await gate.end(holding[0], "hold a")
        for turn in range(6):
            name = await gate.begins(3 + turn)
            await gate.end(tasks[name], name)
        # Whoever has a thread already waits until it is free.
        assert gate.begun[3:] == ["a0", "c0", "a1", "c1", "bulk", "a2"]
        await gate.end(holding[1], "hold b")
        await gate.end(tasks["b0"], "b0")
        await gate.end(holding[2], "hold d")

    asyncio.run(check())


def test_interactive_work_never_keeps_bulk_work_out() -> None:
    async def check() -> None:
        threads = Threads("test", 1)
        order: list[str] = []
        flows = [A, B, C, D]

        async def keep_asking(flow: Flow) -> None:
            while "bulk" not in order:
                await threads.run(flow, Stop(), lambda: order.append(flow.caller))

        async with asyncio.timeout(30), asyncio.TaskGroup() as group:
            for flow in flows * 4:
                group.create_task(keep_asking(flow))
            await settle()
            begun = len(order)
            group.create_task(threads.run(Flow("z", False), Stop(), lambda: order.append("bulk")))
        assert order.index("bulk") <= begun + 2 * BULK_EVERY

    asyncio.run(check())


def test_who_stops_waiting_is_not_preprocessed() -> None:
    async def check() -> None:
        threads = Threads("test", 1)
        gate = Gate(threads)
        holding = gate.start(A, "a0")
        await gate.until("a0")
        given_up = gate.start(A, "a1")
        after = gate.start(A, "a2")
        await settle()
        given_up.cancel()
        await settle()
        assert given_up.cancelled()
        await gate.end(holding, "a0")
        await gate.until("a0", "a2")
        await gate.end(after, "a2")
        assert threads.taken == 0

    asyncio.run(check())


def test_who_gives_up_stops_what_runs_and_the_thread_is_free_once_it_has_stopped() -> None:
    async def check() -> None:
        threads = Threads("test", 1)
        begun, native_call = threading.Event(), threading.Event()
        stop, ends = Stop(seconds=60), []

        def decode() -> None:
            begun.set()
            assert native_call.wait(30)
            try:
                stop.check("input")
            except DeadlineError:
                ends.append("stopped")
                raise

        running = asyncio.create_task(threads.run(A, stop, decode))
        await until(begun.is_set)
        after = asyncio.create_task(threads.run(A, Stop(), lambda: ends.append("after")))
        running.cancel()
        await settle()
        assert running.cancelled()  # the caller waits no longer
        assert (threads.taken, threads.waiting, ends) == (1, 1, [])
        native_call.set()
        await after
        await settle()
        assert ends == ["stopped", "after"]
        assert threads.taken == 0

    asyncio.run(check())


def test_the_servers_seconds_count_from_when_the_work_begins() -> None:
    async def check() -> None:
        threads = Threads("test", 1)
        stop = Stop(seconds=60, started=time.monotonic() - 3600)
        await threads.run(A, stop, lambda: stop.check("input"))
        assert time.monotonic() - stop.started < 60

    asyncio.run(check())


def test_an_error_is_raised_and_frees_the_thread() -> None:
    async def check() -> None:
        threads = Threads("test", 1)

        def fail() -> None:
            raise InvalidInputError("text", "bad")

        for _ in range(3):
            with pytest.raises(InvalidInputError, match="bad"):
                await threads.run(A, Stop(), fail)
        assert await threads.run(A, Stop(), lambda: 1) == 1

    asyncio.run(check())


def test_what_ends_after_the_loop_has_closed_is_passed_over(
    caplog: pytest.LogCaptureFixture,
) -> None:
    threads, begun, gate = Threads("test", 1), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(30)

    async def leave() -> None:
        task = asyncio.create_task(threads.run(A, Stop(), work))
        await until(begun.is_set)
        task.cancel()

    asyncio.run(leave())
    gate.set()
    threads._pool.shutdown(wait=True)
    assert not caplog.records
