"""The client for asyncio."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from types import TracebackType
from typing import Literal, Self, TypeVar, Unpack, overload

from vlm2vec import results, unary_requests
from vlm2vec.aio.streaming_client import StreamingClient
from vlm2vec.base import STREAM_ABOVE, as_list, embedded, with_priority
from vlm2vec.inputs import InputLike
from vlm2vec.options import Options, call_options
from vlm2vec.results import Embedding, Model, Ranking
from vlm2vec.vectors import Array

T = TypeVar("T")


class AsyncClient(StreamingClient):
    """`Client` for asyncio: its methods have the same arguments, for ``await`` and ``async for``.

    A client belongs to the event loop in which it is first used.
    """

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the connections; calls under way fail."""
        if self._opened is not None:
            await self._opened.close()
            self._opened = None

    @overload
    async def embed(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        instruction: str | None = ...,
        details: Literal[False] = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Array: ...
    @overload
    async def embed(  # type: ignore[overload-overlap]  # a str is one input, not an iterable of them
        self,
        inputs: InputLike,
        *,
        instruction: str | None = ...,
        details: Literal[True],
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Embedding: ...
    @overload
    async def embed(
        self,
        inputs: Iterable[InputLike],
        *,
        instruction: str | None = ...,
        details: Literal[True],
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> list[Embedding]: ...
    async def embed(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        instruction: str | None = None,
        details: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Array | Embedding | list[Embedding]:
        """Does what `Client.embed` does; reads files and encodes pixels in a thread."""
        items, single = as_list(inputs)
        if len(items) > STREAM_ABOVE:
            asked = with_priority("interactive", options)
            stream = self.stream(
                enumerate(items), instruction=instruction, details=True, timeout=timeout, **asked
            )
            by_id = {id: item async for id, item in stream}
            return embedded([by_id[index] for index in range(len(items))], single, details)
        deadlines = self._deadlines(timeout)
        found: list[Embedding] = []
        async for request in _in_thread(
            unary_requests.embed_requests(
                items, instruction, call_options(**options), self._max_message_bytes
            )
        ):
            with unary_requests.counted_from(len(found)):
                response = await self._transport.embed(request, next(deadlines))
            found += map(results.embedding, unary_requests.embeddings_of(request, response))
        return embedded(found, single, details)

    async def rank(
        self,
        query: InputLike,
        candidates: Iterable[InputLike],
        *,
        top_k: int = 0,
        instruction: str | None = None,
        candidate_instruction: str | None = None,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Ranking:
        """Does what `Client.rank` does; reads files and encodes pixels in a thread."""
        deadlines = self._deadlines(timeout)
        merged = unary_requests.MergedRanking()
        async for request in _in_thread(
            unary_requests.rank_requests(
                query,
                candidates,
                instruction,
                candidate_instruction,
                top_k,
                call_options(**options),
                self._max_message_bytes,
            )
        ):
            with unary_requests.counted_from(merged.count):
                merged.add(request, await self._transport.rank(request, next(deadlines)))
        return merged.ranking(top_k)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Lists the models that are served, by name."""
        return results.models(await self._transport.models(next(self._deadlines(timeout))))


async def _in_thread(source: Iterator[T]) -> AsyncIterator[T]:
    """Yields what ``source`` yields, each of which is made in a thread."""
    while (item := await asyncio.to_thread(next, source, None)) is not None:
        yield item
