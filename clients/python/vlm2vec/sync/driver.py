"""The loop behind a stream: it drives a `Window` in the thread of the caller."""

import time
from collections.abc import Callable, Generator, Iterator

from vlm2vec.errors import VLM2VecError
from vlm2vec.progress import bar
from vlm2vec.retry import Deadline
from vlm2vec.stream_items import Id, Item
from vlm2vec.sync.stream_call import StreamCall
from vlm2vec.tables import Items, each, length
from vlm2vec.window import ItemResult, Window


def drive(
    items: Items,
    window: Window,
    open_call: Callable[[Deadline], StreamCall],
    progress: bool,
) -> Generator[tuple[Id, ItemResult], None, None]:
    """Embeds ``items``, pulled in the caller's thread, and yields results as they come.

    ``open_call`` starts a call of EmbedStream: the first, and another whenever one breaks. Closing
    the generator cancels the call. Raises what `Window` raises.
    """
    source = each(items)
    call: StreamCall | None = None
    try:
        with bar(progress, length(items)) as shown:
            while True:
                call = call or open_call(window.deadline)
                call.send(window.outgoing())
                _pull(source, window, call)
                while window.results:
                    yield window.results.popleft()
                    shown.update()
                if window.finished:
                    call.finish()
                    return
                if not window.room or window.exhausted or call.ready():
                    call = _receive(window, call)
    finally:
        if call is not None:
            call.close()


def _pull(source: Iterator[Item], window: Window, call: StreamCall) -> None:
    """Fills the window; while answers are ready, only in step with them."""
    while window.room and not window.exhausted:
        try:
            item = next(source)
        except StopIteration:
            window.exhausted = True
            return
        window.add(*window.make(item))
        call.send(window.outgoing())
        if window.results or call.ready():
            return


def _receive(window: Window, call: StreamCall) -> StreamCall | None:
    """Handles one event of the call; returns the call, or None when it is over."""
    event = call.receive(window.wait())
    if isinstance(event, VLM2VecError):
        call.close()
        time.sleep(window.broke(event))
        return None
    if event is not None:
        window.answer(event)
    return call
