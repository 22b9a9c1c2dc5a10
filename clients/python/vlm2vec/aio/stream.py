"""A window of requests, driven by tasks."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Iterable

from vlm2vec.aio.connection import Connection, Event, Events
from vlm2vec.errors import VLM2VecError
from vlm2vec.inputs import has_media
from vlm2vec.items import Id, Item
from vlm2vec.progress import bar
from vlm2vec.retry import Deadline
from vlm2vec.window import Result, Window


async def run(
    items: Iterable[Item] | AsyncIterable[Item],
    window: Window,
    connect: Callable[[Deadline, Events], Connection],
    progress: bool,
) -> AsyncGenerator[tuple[Id, Result], None]:
    """Embeds ``items``, pulled by a task beside, and yields results as they come."""
    events: Events = asyncio.Queue()
    room = asyncio.Event()
    connection: Connection | None = None
    feeder = asyncio.create_task(_feed(items, window, room, events))
    feeder.add_done_callback(lambda _: events.put_nowait(None))
    try:
        with bar(progress, items) as shown:
            while True:
                connection = connection or connect(window.deadline, events)
                connection.send(window.outgoing())
                while window.results:
                    yield window.results[0]
                    # Only now has the caller seen it, and the next item may be pulled.
                    window.results.popleft()
                    room.set()
                    shown.update()
                if feeder.done():
                    feeder.result()
                if window.finished:
                    await connection.finish()
                    return
                event = await _next(events, window.wait())
                if isinstance(event, VLM2VecError):
                    await connection.close()
                    connection = None
                    await asyncio.sleep(window.broke(event))
                elif event is not None:
                    window.answer(event)
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        if connection is not None:
            await connection.close()


async def _feed(
    items: Iterable[Item] | AsyncIterable[Item],
    window: Window,
    room: asyncio.Event,
    events: Events,
) -> None:
    """Adds items while there is room; what takes long is done in a thread."""
    source = aiter(items) if isinstance(items, AsyncIterable) else _each(items)
    while True:
        while not window.room:
            room.clear()
            await room.wait()
        try:
            item = await anext(source)
        except StopAsyncIteration:
            window.exhausted = True
            return
        made = await asyncio.to_thread(window.make, item) if has_media(item) else window.make(item)
        window.add(*made)
        events.put_nowait(None)


async def _each(items: Iterable[Item]) -> AsyncIterator[Item]:
    for item in items:
        yield item


async def _next(events: Events, timeout: float | None) -> Event:
    """The next event; None after ``timeout`` seconds."""
    if timeout is None:
        return await events.get()
    try:
        return await asyncio.wait_for(events.get(), timeout)
    except TimeoutError:
        return None
