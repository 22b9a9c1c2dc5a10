"""Unary requests: inputs are cut into as many as fit, and the answers are put together again."""

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from vlm2vec.errors import Internal, InvalidInput, VLM2VecError
from vlm2vec.inputs import InputLike, to_proto
from vlm2vec.results import OneSpace, Ranked, Ranking
from vlm2vec.v1 import embedding_pb2 as pb

MAX_INPUTS = 64
"""How many inputs go into one request: what servers allow unless they are set up otherwise."""
_OVERHEAD = 8
"""The most bytes that framing adds to each input of a request."""


def embed_requests(
    inputs: Iterable[InputLike],
    instruction: str | None,
    options: pb.CallOptions,
    max_bytes: int,
) -> Iterator[pb.EmbedRequest]:
    """Yields requests of at most ``max_bytes`` that hold ``inputs``, in order.

    Raises `InvalidInput`, with the index as its id, for an input that cannot be sent.
    """
    room = _room(max_bytes, options)
    for group in _groups(inputs, instruction, room):
        yield pb.EmbedRequest(options=options, inputs=group)


def rank_requests(
    query: InputLike,
    candidates: Iterable[InputLike],
    instruction: str | None,
    candidate_instruction: str | None,
    top_k: int,
    options: pb.CallOptions,
    max_bytes: int,
) -> Iterator[pb.RankRequest]:
    """Yields requests of at most ``max_bytes`` that hold ``candidates``, in order, and the query.

    Raises `InvalidInput` for a query or a candidate that cannot be sent; of a candidate, with the
    index as its id.
    """
    room = _room(max_bytes, options)
    asked = to_proto(query, instruction, room)
    for group in _groups(candidates, candidate_instruction, room - asked.ByteSize() - _OVERHEAD):
        yield pb.RankRequest(options=options, query=asked, candidates=group, top_k=top_k)


def embeddings_of(request: pb.EmbedRequest, response: pb.EmbedResponse) -> Sequence[pb.Embedding]:
    """Returns the embeddings of an answer; raises `Internal` if not each input has one."""
    if len(response.embeddings) != len(request.inputs):
        raise Internal(
            f"{len(response.embeddings)} embeddings came for {len(request.inputs)} inputs"
        )
    return response.embeddings


class MergedRanking:
    """Merges the orders that several requests came back in into one."""

    def __init__(self) -> None:
        self.count = 0
        """How many candidates have been ranked so far."""
        self._space = OneSpace()
        self._ranked: list[Ranked] = []
        self._last = pb.RankResponse()

    def add(self, request: pb.RankRequest, response: pb.RankResponse) -> None:
        """Adds the answer to the next request; raises `SpaceChanged` if its space is another."""
        self._space.check(response)
        self._ranked += [
            Ranked(self.count + r.index, r.score, r.truncated) for r in response.candidates
        ]
        self.count += len(request.candidates)
        self._last = response

    def ranking(self, top_k: int) -> Ranking:
        """Returns the best ``top_k`` of all candidates, or all for 0.

        Raises ValueError if there were none.
        """
        if not self.count:
            raise ValueError("there are no candidates to rank")
        best = sorted(self._ranked, key=lambda ranked: (-ranked.score, ranked.index))
        last = self._last
        return Ranking(
            tuple(best[: top_k or None]),
            last.model,
            last.version,
            last.space,
            last.query_truncated,
        )


@contextmanager
def counted_from(first: int) -> Iterator[None]:
    """Mends the index in errors of one request, whose first input is number ``first`` of the call.

    Servers count from the first input of a request, callers from the first of the call.
    """
    try:
        yield
    except VLM2VecError as error:
        if at_fault := _INDEXED.match(error.field):
            error.id = first + int(at_fault["index"])
            error.field = f"{at_fault['list']}[{error.id}]{at_fault['rest']}"
            if first:
                error.add_note(f"Counted from the first of the call, it is {error.field}.")
        raise


_INDEXED = re.compile(r"(?P<list>inputs|candidates)\[(?P<index>\d+)\](?P<rest>.*)")


def _room(max_bytes: int, options: pb.CallOptions) -> int:
    return max_bytes - options.ByteSize() - 2 * _OVERHEAD


def _groups(
    inputs: Iterable[InputLike], instruction: str | None, max_bytes: int
) -> Iterator[list[pb.Input]]:
    """Yields the messages of ``inputs``, each time as many as one request may hold."""
    group: list[pb.Input] = []
    size = 0
    for index, item in enumerate(inputs):
        try:
            message = to_proto(item, instruction, max_bytes - _OVERHEAD)
        except InvalidInput as error:
            error.id = index
            raise
        added = message.ByteSize() + _OVERHEAD
        if group and (len(group) == MAX_INPUTS or size + added > max_bytes):
            yield group
            group, size = [], 0
        group.append(message)
        size += added
    if group:
        yield group
