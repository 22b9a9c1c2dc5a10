"""The client for asyncio."""

from contextlib import aclosing
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from vlm2vec import results, unary_requests
from vlm2vec.aio.streaming_client import StreamingClient
from vlm2vec.aio.unary_calls import in_turn
from vlm2vec.base import Found, as_list, cosines, space_of
from vlm2vec.inputs import InputLike
from vlm2vec.options import Options, call_options, in_space
from vlm2vec.progress import bar
from vlm2vec.results import Embedding, Model, Ranking
from vlm2vec.tables import Inputs, each
from vlm2vec.vectors import Array


class AsyncClient(StreamingClient):
    """`Client` for asyncio: its methods have the same arguments, for ``await`` and ``async for``.

    A client belongs to the event loop in which it is first used. Once that is closed, as after
    ``asyncio.run``, it connects anew in the next.
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
        inputs: InputLike | Inputs,
        *,
        instruction: str | None = ...,
        details: Literal[False] = ...,
        progress: bool = ...,
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
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Embedding: ...
    @overload
    async def embed(
        self,
        inputs: Inputs,
        *,
        instruction: str | None = ...,
        details: Literal[True],
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> list[Embedding]: ...
    async def embed(
        self,
        inputs: InputLike | Inputs,
        *,
        instruction: str | None = None,
        details: bool = False,
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Array | Embedding | list[Embedding]:
        """Does what `Client.embed` does; reads files and encodes pixels in a thread."""
        items, single = as_list(inputs)
        deadlines = self._deadlines(timeout, len(items))
        found = Found(len(items), details)
        asked = call_options(**options)
        requests = unary_requests.embed_requests(items, instruction, asked, self._limits)
        with bar(progress, len(items)) as shown, unary_requests.counted_from(lambda: found.count):
            async with aclosing(
                in_turn(requests, lambda one: self._transport.embed(one, next(deadlines)))
            ) as answers:
                async for request, response in answers:
                    shown.update(found.add(request, response))
                    asked.CopyFrom(call_options(**in_space(found.space, options)))
        return found.result(single)

    async def similarity(
        self,
        queries: InputLike | Inputs,
        candidates: InputLike | Inputs,
        *,
        instruction: str | None = None,
        candidate_instruction: str | None = None,
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Array:
        """Does what `Client.similarity` does; reads files and encodes pixels in a thread."""
        asked: Any = {"progress": progress, "timeout": timeout}
        found = await self.embed(queries, instruction=instruction, details=True, **asked, **options)
        options = in_space(space_of(found), options)
        others = await self.embed(
            candidates, instruction=candidate_instruction, details=True, **asked, **options
        )
        return cosines(found, others)

    async def rank(
        self,
        query: InputLike,
        candidates: Inputs,
        *,
        top_k: int = 0,
        instruction: str | None = None,
        candidate_instruction: str | None = None,
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Ranking:
        """Does what `Client.rank` does; reads files and encodes pixels in a thread."""
        items = list(each(candidates))
        deadlines = self._deadlines(timeout, len(items))
        merged = unary_requests.MergedRanking(items)
        asked = call_options(**options)
        requests = unary_requests.rank_requests(
            query,
            items,
            instruction,
            candidate_instruction,
            top_k,
            asked,
            self._limits,
        )
        with bar(progress, len(items)) as shown, unary_requests.counted_from(lambda: merged.count):
            async with aclosing(
                in_turn(requests, lambda one: self._transport.rank(one, next(deadlines)))
            ) as answers:
                async for request, response in answers:
                    merged.add(request, response)
                    asked.CopyFrom(call_options(**in_space(response.space, options)))
                    shown.update(len(request.candidates))
        return merged.ranking(top_k)

    async def models(self, *, timeout: float | None = None) -> list[Model]:
        """Lists the models that are served, by name."""
        return results.models(await self._transport.models(next(self._deadlines(timeout))))
