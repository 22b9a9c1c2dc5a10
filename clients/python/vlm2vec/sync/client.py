"""The client that blocks."""

from collections.abc import Iterable
from types import TracebackType
from typing import Literal, Self, Unpack, overload

from vlm2vec import results, unary_requests
from vlm2vec.base import STREAM_ABOVE, as_list, embedded, with_priority
from vlm2vec.inputs import InputLike
from vlm2vec.options import Options, call_options
from vlm2vec.results import Embedding, Model, Ranking
from vlm2vec.sync.streaming_client import StreamingClient
from vlm2vec.vectors import Array


class Client(StreamingClient):
    """Embeds text, images and video on a server. Threads may share a client.

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
        inputs: InputLike | Iterable[InputLike],
        *,
        instruction: str | None = ...,
        details: Literal[False] = ...,
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
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> Embedding: ...
    @overload
    def embed(
        self,
        inputs: Iterable[InputLike],
        *,
        instruction: str | None = ...,
        details: Literal[True],
        timeout: float | None = ...,
        **options: Unpack[Options],
    ) -> list[Embedding]: ...
    def embed(
        self,
        inputs: InputLike | Iterable[InputLike],
        *,
        instruction: str | None = None,
        details: bool = False,
        timeout: float | None = None,
        **options: Unpack[Options],
    ) -> Array | Embedding | list[Embedding]:
        """Embeds one input, or several, and returns when all are done.

        More than 64 inputs, or more bytes than a message may have, are sent in several requests;
        more than 256 inputs are sent in a stream.

        Args:
            inputs: One input, or any number: `Input`, text, or the pathlib.Path of an image.
            instruction: The task, for inputs that have none of their own and no prompt.
            details: Whether to return `Embedding` objects, with version, space, tokens and timings.
            timeout: Seconds for the whole call. Without it, each request has the client's
                timeout, and a stream has none.
            **options: The options that `Options` describes.

        Returns:
            float32 ``(dim,)`` for one input, ``(n, dim)`` in order for several; ``(0, 0)`` for
            none. With ``details``, an `Embedding` or a list of them.

        Raises:
            VLM2VecError: An input is bad, or the server cannot answer; no vector is returned then.
            SpaceChanged: The server switched versions in the middle, so the vectors do not compare.
        """
        items, single = as_list(inputs)
        if len(items) > STREAM_ABOVE:
            asked = with_priority("interactive", options)
            stream = self.stream(
                enumerate(items), instruction=instruction, details=True, timeout=timeout, **asked
            )
            by_id = dict(stream)
            return embedded([by_id[index] for index in range(len(items))], single, details)
        deadlines = self._deadlines(timeout)
        found: list[Embedding] = []
        for request in unary_requests.embed_requests(
            items, instruction, call_options(**options), self._max_message_bytes
        ):
            with unary_requests.counted_from(len(found)):
                response = self._transport.embed(request, next(deadlines))
            found += map(results.embedding, unary_requests.embeddings_of(request, response))
        return embedded(found, single, details)

    def rank(
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
        """Orders candidates by the cosine of their vectors to the query's.

        More than 64 candidates are ranked in several requests.

        Args:
            query: What to look for.
            candidates: The inputs to put in order, at least one.
            top_k: How many of the best to return; 0 returns all.
            instruction: The task of the query, if it has none of its own.
            candidate_instruction: The task of the candidates that have none of their own.
            timeout: Seconds for the whole call. Without it, each request has the client's timeout.
            **options: The options that `Options` describes.

        Raises:
            VLM2VecError: An input is bad, or the server cannot answer.
            SpaceChanged: The server switched versions in the middle.
            ValueError: There are no candidates.
        """
        deadlines = self._deadlines(timeout)
        merged = unary_requests.MergedRanking()
        for request in unary_requests.rank_requests(
            query,
            candidates,
            instruction,
            candidate_instruction,
            top_k,
            call_options(**options),
            self._max_message_bytes,
        ):
            with unary_requests.counted_from(merged.count):
                merged.add(request, self._transport.rank(request, next(deadlines)))
        return merged.ranking(top_k)

    def models(self, *, timeout: float | None = None) -> list[Model]:
        """Lists the models that are served, by name."""
        return results.models(self._transport.models(next(self._deadlines(timeout))))
