"""A window of requests, driven in the caller's thread."""

import time
from collections.abc import Callable, Generator, Iterable, Iterator

from vlm2vec.errors import VLM2VecError
from vlm2vec.items import Id, Item
from vlm2vec.progress import bar
from vlm2vec.retry import Deadline
from vlm2vec.sync.connection import Connection
from vlm2vec.window import Result, Window


def run(
    items: Iterable[Item],
    window: Window,
    connect: Callable[[Deadline], Connection],
    progress: bool,
) -> Generator[tuple[Id, Result], None, None]:
    """Embeds ``items``, pulled in the caller's thread, and yields results as they come."""
    source = iter(items)
    connection: Connection | None = None
    try:
        with bar(progress, items) as shown:
            while True:
                connection = connection or connect(window.deadline)
                connection.send(window.outgoing())
                _pull(source, window, connection)
                while window.results:
                    yield window.results.popleft()
                    shown.update()
                if window.finished:
                    connection.finish()
                    return
                if not window.room or window.exhausted or connection.ready():
                    connection = _receive(window, connection)
    finally:
        if connection is not None:
            connection.close()


def _pull(source: Iterator[Item], window: Window, connection: Connection) -> None:
    """Fills the window; while answers are ready, only in step with them."""
    while window.room and not window.exhausted:
        try:
            item = next(source)
        except StopIteration:
            window.exhausted = True
            return
        window.add(*window.make(item))
        connection.send(window.outgoing())
        if window.results or connection.ready():
            return


def _receive(window: Window, connection: Connection) -> Connection | None:
    """Handles one event; None when the connection is over."""
    event = connection.receive(window.wait())
    if isinstance(event, VLM2VecError):
        connection.close()
        time.sleep(window.broke(event))
        return None
    if event is not None:
        window.answer(event)
    return connection
