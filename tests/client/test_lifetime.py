"""Threads and tasks of a client: items are pulled in the right one, and none is left behind."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from typing import Any

import grpc
import pytest

import vlm2vec
from tests.client.inbox import THREADS
from tests.client.server import Service
from tests.client.vectors import texts


def own_threads() -> set[threading.Thread]:
    """Threads that are not the test server's."""
    return {
        thread
        for thread in threading.enumerate()
        if not thread.name.startswith(THREADS) and "_serve" not in thread.name
    }


def until(condition: Any) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_early_close_leaves_nothing(client: Any, service: Service) -> None:
    client.embed("a")
    before = own_threads()
    for _ in range(20):
        stream = client.stream(texts(10_000))
        next(stream)
        stream.close()
    # Closing does not wait for answers.
    stream = client.stream(texts(10_000))
    next(stream)
    service.behaviour.silent = True
    stream.close()
    until(lambda: service.open_streams == 0)
    service.behaviour.silent = False
    abandoned = client.stream(texts(10_000))
    next(abandoned)
    del abandoned
    client.stream(texts(10))  # never begun
    service.behaviour.silent = True
    with pytest.raises(vlm2vec.DeadlineExceeded):
        list(client.stream(texts(1000), timeout=0.2))
    until(lambda: service.open_streams == 0)
    until(lambda: not own_threads() - before)


def test_items_are_pulled_in_the_callers_thread(service: Service) -> None:
    def items() -> Iterator[str]:
        assert threading.current_thread() is threading.main_thread()
        yield from texts(10)

    with vlm2vec.Client(service.address) as client:
        assert len(list(client.stream(items()))) == 10


def test_threads_share_a_client(service: Service) -> None:
    found: list[int] = []
    with vlm2vec.Client(service.address) as client:
        threads = [
            threading.Thread(target=lambda: found.append(len(list(client.stream(texts(300))))))
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == [300] * 4


def test_answers_of_a_slow_async_source_come_at_once(service: Service) -> None:
    async def run() -> list[Any]:
        answered = asyncio.Event()

        async def items() -> AsyncIterator[tuple[str, str]]:
            yield "first", "a"
            # Only the answer to the first lets the second follow.
            await answered.wait()
            yield "second", "b"

        found = []
        async with vlm2vec.AsyncClient(service.address) as client:
            async for id, _ in client.stream(items(), timeout=30):
                found.append(id)
                answered.set()
        return found

    assert asyncio.run(run()) == ["first", "second"]


def test_async_streams_run_beside_each_other(service: Service) -> None:
    async def run() -> list[int]:
        async with vlm2vec.AsyncClient(service.address) as client:

            async def count() -> int:
                return len([id async for id, _ in client.stream(texts(300))])

            return await asyncio.gather(*(count() for _ in range(4)))

    assert asyncio.run(run()) == [300] * 4


def test_early_end_leaves_no_tasks(service: Service) -> None:
    async def run() -> None:
        async with vlm2vec.AsyncClient(service.address) as client:
            await client.embed("a")
            before = asyncio.all_tasks()
            for _ in range(10):
                async with aclosing(client.stream(texts(10_000))) as stream:
                    async for _ in stream:
                        break
            assert asyncio.all_tasks() == before

            async def follow() -> None:
                async for _ in client.stream(texts(10_000)):
                    pass

            service.behaviour.silent = True
            task = asyncio.create_task(follow())
            await asyncio.sleep(0.2)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == before

    asyncio.run(run())
    until(lambda: service.open_streams == 0)


def test_an_async_client_goes_on_in_the_next_event_loop(service: Service) -> None:
    client = vlm2vec.AsyncClient(service.address)

    async def ask() -> int:
        return len([id async for id, _ in client.stream(texts(3))]) + len(await client.embed(["a"]))

    assert [asyncio.run(ask()) for _ in range(3)] == [4, 4, 4]


def test_an_async_client_is_not_for_two_event_loops(service: Service) -> None:
    client = vlm2vec.AsyncClient(service.address)

    async def first() -> None:
        await client.embed("a")
        with pytest.raises(RuntimeError, match="belongs to the event loop"):
            await asyncio.to_thread(asyncio.run, client.embed("b"))
        await client.close()

    asyncio.run(first())


def test_closing_the_client_ends_its_streams(service: Service) -> None:
    before = own_threads()
    with vlm2vec.Client(service.address) as client:
        stream = client.stream(texts(10_000))
        next(stream)
    with pytest.raises(vlm2vec.VLM2VecError) as caught:
        list(stream)
    assert caught.value.code is grpc.StatusCode.CANCELLED
    until(lambda: not own_threads() - before)
