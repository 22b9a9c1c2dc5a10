"""The loop behind a stream: it drives a `Window` with tasks of the running event loop."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable

from vlm2vec.aio.stream_call import Event, Events, StreamCall
from vlm2vec.errors import VLM2VecError
from vlm2vec.inputs import has_media
from vlm2vec.progress import bar
from vlm2vec.retry import Deadline
from vlm2vec.stream_items import Id, Item
from vlm2vec.tables import Items, each, length
from vlm2vec.window import ItemResult, Window


async def drive(
    items: Items | AsyncIterable[Item],
    window: Window,
    open_call: Callable[[Deadline, Events], StreamCall],
    progress: bool,
) -> AsyncGenerator[tuple[Id, ItemResult], None]:
    """Embeds ``items``, pulled by a task of its own, and yields results as they come.

    ``open_call`` starts a call of EmbedStream: the first, and another whenever one breaks. Closing
    the generator cancels the call. Raises what `Window` raises.
    """
    events: Events = asyncio.Queue()
    room = asyncio.Event()
    call: StreamCall | None = None
    feeder = asyncio.create_task(_feed(items, window, room, events))
    feeder.add_done_callback(lambda _: events.put_nowait(None))
    try:
        with bar(progress, length(items)) as shown:
            while True:
                call = call or open_call(window.deadline, events)
                call.send(window.outgoing())
                while window.results:
                    yield window.results[0]
                    # Only now has the caller seen it, and the next item may be pulled.
                    window.results.popleft()
                    room.set()
                    shown.update()
                if feeder.done():
                    feeder.result()
                if window.finished:
                    await call.finish()
                    return
                event = await _next(events, window.wait())
                if isinstance(event, VLM2VecError):
                    await call.close()
                    call = None
                    await asyncio.sleep(window.broke(event))
                elif event is not None:
                    window.answer(event)
    finally:
        feeder.cancel()
        await asyncio.gather(feeder, return_exceptions=True)
        if call is not None:
            await call.close()


async def _feed(
    items: Items | AsyncIterable[Item],
    window: Window,
    room: asyncio.Event,
    events: Events,
) -> None:
    """Adds items to the window while it has room; reads files and encodes pixels in threads."""
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


async def _each(items: Items) -> AsyncIterator[Item]:
    for item in each(items):
        yield item


async def _next(events: Events, timeout: float | None) -> Event:
    """Waits for the next event; returns None after ``timeout`` seconds."""
    if timeout is None:
        return await events.get()
    try:
        return await asyncio.wait_for(events.get(), timeout)
    except TimeoutError:
        return None
