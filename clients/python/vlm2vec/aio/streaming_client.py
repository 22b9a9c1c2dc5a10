"""The part of the asyncio client that streams: `AsyncClient` adds the unary calls to it."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterable
from typing import Any, Literal, Unpack, overload

from vlm2vec.aio.driver import drive
from vlm2vec.aio.transport import Transport
from vlm2vec.base import BaseClient
from vlm2vec.errors import VLM2VecError
from vlm2vec.options import Options
from vlm2vec.results import Embedding
from vlm2vec.stream_items import Id, Item
from vlm2vec.tables import Items
from vlm2vec.vectors import Array


class StreamingClient(BaseClient):
    """A client that opens its channel at the first call, and has streams only."""

    _opened: Transport | None = None
    _loop: asyncio.AbstractEventLoop | None = None

    @property
    def _transport(self) -> Transport:
        # A channel belongs to the event loop that runs when it is opened.
        loop = asyncio.get_running_loop()
        if self._loop is not None and self._loop is not loop:
            if not self._loop.is_closed():
                raise RuntimeError(
                    "an AsyncClient belongs to the event loop in which it was first used: make "
                    "another for this one"
                )
            self._opened = None  # as after asyncio.run, whose loop took the connections with it
        self._loop = loop
        self._opened = self._opened or Transport(self._endpoint, self._retries)
        return self._opened

    @overload
    def stream(
        self,
        items: Items | AsyncIterable[Item],
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[False] = ...,
        on_error: Literal["raise"] = ...,
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[Id, Array], None]: ...
    @overload
    def stream(
        self,
        items: Items | AsyncIterable[Item],
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[True],
        on_error: Literal["raise"] = ...,
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[Id, Embedding], None]: ...
    @overload
    def stream(
        self,
        items: Items | AsyncIterable[Item],
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[False] = ...,
        on_error: Literal["yield"],
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[Id, Array | VLM2VecError], None]: ...
    @overload
    def stream(
        self,
        items: Items | AsyncIterable[Item],
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[True],
        on_error: Literal["yield"],
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[Id, Embedding | VLM2VecError], None]: ...
    def stream(
        self,
        items: Items | AsyncIterable[Item],
        *,
        window: int = 256,
        instruction: str | None = None,
        details: bool = False,
        on_error: Literal["raise", "yield"] = "raise",
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[tuple[Id, Any], None]:
        """Does what `Client.stream` does, for asyncio; ``items`` may also be an async iterable.

        Files are read and pixels encoded in threads. A loop that ends early should close the
        generator, as with ``contextlib.aclosing``; otherwise the event loop does, a little later.
        """
        state = self._window(window, instruction, details, on_error, timeout, options)
        # The transport is opened when the generator starts, in its event loop.
        return drive(items, state, lambda *call: self._transport.open_stream(*call), progress)
