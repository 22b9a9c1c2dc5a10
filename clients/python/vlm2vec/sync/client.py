"""The client that blocks."""

from contextlib import closing
from types import TracebackType
from typing import Any, Literal, Self, Unpack, overload

from vlm2vec import results, unary_requests
from vlm2vec.base import Found, as_list, cosines, space_of
from vlm2vec.inputs import InputLike
from vlm2vec.options import Options, call_options, in_space
from vlm2vec.progress import bar
from vlm2vec.results import Embedding, Model, Ranking
from vlm2vec.sync.streaming_client import StreamingClient
from vlm2vec.sync.unary_calls import in_turn
from vlm2vec.tables import Inputs, each
from vlm2vec.vectors import Array


class Client(StreamingClient):
    """Embeds text, images, video and audio on a server. Threads may share a client.

    Calls raise a `VLM2VecError` where the server cannot answer, and ValueError or TypeError where
    the arguments make no sense. Close the client, or use it in ``with``.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connections; calls under way fail."""
        self._transport.close()

    @overload
    def embed(
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
    def embed(  # type: ignore[overload-overlap]  # a str is one input, not an iterable of them
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
    def embed(
        self,
        inputs: Inputs,
        *,
        instruction: str | None = ...,
        details: Literal[True],
        progress: bool = ...,
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> list[Embedding]: ...
    def embed(
        self,
        inputs: InputLike | Inputs,
        *,
        instruction: str | None = None,
        details: bool = False,
        progress: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Array | Embedding | list[Embedding]:
        """Embeds one input, or several, and returns when all are done.

        More than 64 inputs, or more than 16 MiB of them, are sent in several requests, of which up
        to four are under way at a time. One that fails for a while is sent again, the others go on.

        Args:
            inputs: One input, or any number. An input is text (str), a picture (pathlib.Path, PIL
                image, uint8 array), a row (dict) with any of the keys text, instruction, prompt,
                image, images, video, videos, audio, audios and parts, or an `Input`. Any number
                are a list, a generator, or a table of pandas, polars, pyarrow or ``datasets`` with
                these keys as columns.
            instruction: The task, for inputs that have none of their own and no prompt.
            details: Whether to return `Embedding` objects, with version, space, tokens and timings.
            progress: Whether to show a bar; needs tqdm.
            timeout: Seconds for the whole call. Without it, up to 64 inputs have the client's
                timeout for each request, and more of them have none.
            **options: The options that `Options` describes.

        Returns:
            float32 ``(dim,)`` for one input, ``(n, dim)`` in order for several; ``(0, 0)`` for
            none. With ``details``, an `Embedding` or a list of them.

        Raises:
            VLM2VecError: An input is bad, or the server cannot answer; no vector is returned then.
            SpaceChanged: The server switched versions in the middle, so the vectors do not compare.
        """
        items, single = as_list(inputs)
        deadlines = self._deadlines(timeout, len(items))
        found = Found(len(items), details)
        asked = call_options(**options)
        requests = unary_requests.embed_requests(items, instruction, asked, self._limits)
        with (
            bar(progress, len(items)) as shown,
            unary_requests.counted_from(lambda: found.count),
            closing(
                in_turn(requests, lambda one: self._transport.embed(one, next(deadlines)))
            ) as answers,
        ):
            for request, response in answers:
                shown.update(found.add(request, response))
                asked.CopyFrom(call_options(**in_space(found.space, options)))
        return found.result(single)

    def similarity(
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
        """Compares each of the queries with each of the candidates.

        Args:
            queries: One input, or any number.
            candidates: One input, or any number.
            instruction: The task of the queries that have none of their own.
            candidate_instruction: The task of the candidates that have none of their own.
            progress: Whether to show bars; needs tqdm.
            timeout: Seconds for the queries, and again for the candidates. Without it, as in
                `embed`.
            **options: The options that `Options` describes.

        Returns:
            The cosines of their vectors, float32 ``(queries, candidates)``. One input that was not
            in a list has no axis: ``(candidates,)`` for one query, ``()`` for two inputs.

        Raises:
            VLM2VecError: An input is bad, or the server cannot answer.
            SpaceChanged: The server switched versions in the middle.
        """
        asked: Any = {"progress": progress, "timeout": timeout}
        found = self.embed(queries, instruction=instruction, details=True, **asked, **options)
        options = in_space(space_of(found), options)
        others = self.embed(
            candidates, instruction=candidate_instruction, details=True, **asked, **options
        )
        return cosines(found, others)

    def rank(
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
        """Orders candidates by the cosine of their vectors to the query's.

        More than 64 candidates are ranked in several requests, as `embed` sends them.

        Args:
            query: What to look for.
            candidates: The inputs to put in order, at least one; the ranking holds them.
            top_k: How many of the best to return; 0 returns all.
            instruction: The task of the query, if it has none of its own.
            candidate_instruction: The task of the candidates that have none of their own.
            progress: Whether to show a bar; needs tqdm.
            timeout: Seconds for the whole call. Without it, as in `embed`.
            **options: The options that `Options` describes.

        Raises:
            VLM2VecError: An input is bad, or the server cannot answer.
            SpaceChanged: The server switched versions in the middle.
            ValueError: There are no candidates.
        """
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
        with (
            bar(progress, len(items)) as shown,
            unary_requests.counted_from(lambda: merged.count),
            closing(
                in_turn(requests, lambda one: self._transport.rank(one, next(deadlines)))
            ) as answers,
        ):
            for request, response in answers:
                merged.add(request, response)
                asked.CopyFrom(call_options(**in_space(response.space, options)))
                shown.update(len(request.candidates))
        return merged.ranking(top_k)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Lists the models that are served, by name."""
        return results.models(self._transport.models(next(self._deadlines(timeout))))
