"""The part of the blocking client that streams: `Client` adds the unary calls to it."""

from collections.abc import Generator
from typing import Any, Literal, Unpack, overload

from vlm2vec.base import BaseClient
from vlm2vec.errors import VLM2VecError
from vlm2vec.options import Options
from vlm2vec.results import Embedding
from vlm2vec.stream_items import Id
from vlm2vec.sync.driver import drive
from vlm2vec.sync.transport import Transport
from vlm2vec.tables import Items
from vlm2vec.vectors import Array


class StreamingClient(BaseClient):
    """A client that opens its channel when it is made, and has streams only."""

    def _open(self) -> None:
        self._transport = Transport(self._endpoint, self._retries)

    @overload
    def stream(
        self,
        items: Items,
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[False] = ...,
        on_error: Literal["raise"] = ...,
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Generator[tuple[Id, Array], None, None]: ...
    @overload
    def stream(
        self,
        items: Items,
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[True],
        on_error: Literal["raise"] = ...,
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Generator[tuple[Id, Embedding], None, None]: ...
    @overload
    def stream(
        self,
        items: Items,
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[False] = ...,
        on_error: Literal["yield"],
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Generator[tuple[Id, Array | VLM2VecError], None, None]: ...
    @overload
    def stream(
        self,
        items: Items,
        *,
        window: int = ...,
        instruction: str | None = ...,
        details: Literal[True],
        on_error: Literal["yield"],
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Generator[tuple[Id, Embedding | VLM2VecError], None, None]: ...
    def stream(
        self,
        items: Items,
        *,
        window: int = 256,
        instruction: str | None = None,
        details: bool = False,
        on_error: Literal["raise", "yield"] = "raise",
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Generator[tuple[Id, Any], None, None]:
        """Embeds any number of inputs in bounded memory, and yields them as they are ready.

        Every item comes once, whatever happens to the connection: when it breaks, another is
        opened and what is unanswered is asked again. Items are pulled in the thread that iterates,
        never more than ``window`` ahead of what was yielded. Closing the generator cancels the
        call.

        Args:
            items: Inputs, as `embed` takes them, or pairs of an id and an input. Ids of rows are
                in their key ``id``; those of other inputs are then 0, 1, 2…. An id is an int, or
                a str of 1 to 256 bytes of UTF-8, and unique within the window.
            window: How many items may be without an answer at a time.
            instruction: The task, for inputs that have none of their own and no prompt.
            details: Whether to yield `Embedding` objects in place of vectors.
            on_error: "yield" gives the `VLM2VecError` of an item that failed in place of its
                vector, and goes on; "raise" raises it.
            progress: Whether to show a bar; needs tqdm.
            timeout: Seconds for the whole stream; None is no limit.
            **options: The options that `Options` describes; the priority is "bulk" by default.

        Yields:
            The id of an item and its vector, float32 ``(dim,)``; in any order.

        Raises:
            VLM2VecError: An item failed, or the stream did and could not be resumed.
            SpaceChanged: The server switched versions in the middle; never with ``details``, as
                each `Embedding` then says its space.
            ValueError: An id came twice in the window.
        """
        state = self._window(window, instruction, details, on_error, timeout, options)
        return drive(items, state, self._transport.open_stream, progress)
