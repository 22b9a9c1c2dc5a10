"""Unary requests: inputs are cut into as many as fit, and the answers are put together again."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace

from vlm2vec.errors import Internal, InvalidInput, VLM2VecError
from vlm2vec.fetch import Limits
from vlm2vec.inputs import InputLike, to_proto
from vlm2vec.results import OneSpace, Ranked, Ranking
from vlm2vec.v1 import embedding_pb2 as pb

MAX_INPUTS = 64
"""How many inputs go into one request. More would hardly cost less: from here on it is the inputs
that take time, not the request. And fewer of them have to be sent again after a failure."""
MAX_BYTES = 16 << 20
"""Bytes of a request above which no input is added to those that it has."""
AT_ONCE = 4
"""How many requests of a call are under way at a time, with a server that is quick."""
_QUICK_SECONDS = 1.0
"""How long a quick server lets one wait for the answer to the next request, at most."""
_OVERHEAD = 8
"""The most bytes that framing adds to each input of a request."""
_SPACE = 128
"""Bytes for the name of the space in which the first request of a call was answered."""


def embed_requests(
    inputs: Iterable[InputLike],
    instruction: str | None,
    options: pb.CallOptions,
    limits: Limits,
) -> Iterator[pb.EmbedRequest]:
    """Yields requests within ``limits`` that hold ``inputs``, in order, and no more of them than
    `MAX_INPUTS` and `MAX_BYTES` say.

    Raises `InvalidInput`, with the index as its id, for an input that cannot be sent.
    """
    for group in _groups(inputs, instruction, _room(limits, options), "inputs"):
        yield pb.EmbedRequest(options=options, inputs=group)


def rank_requests(
    query: InputLike,
    candidates: Iterable[InputLike],
    instruction: str | None,
    candidate_instruction: str | None,
    top_k: int,
    options: pb.CallOptions,
    limits: Limits,
) -> Iterator[pb.RankRequest]:
    """Yields requests within ``limits`` that hold ``candidates``, in order, and the query; as many
    of them as `embed_requests` would.

    Raises `InvalidInput` for a query or a candidate that cannot be sent; of a candidate, with the
    index as its id. Raises ValueError for a ``top_k`` below 0.
    """
    if not isinstance(top_k, int) or top_k < 0:
        raise ValueError(f"top_k is {top_k!r}, not a whole number from 0")
    room = _room(limits, options)
    asked = to_proto(query, instruction, room, "query")
    room = _less(room, asked.ByteSize() + _OVERHEAD)
    for group in _groups(candidates, candidate_instruction, room, "candidates"):
        yield pb.RankRequest(options=options, query=asked, candidates=group, top_k=top_k)


def calls_at_once(waited: float) -> int:
    """Returns how many requests of a call may be under way, after one was ``waited`` for, in
    seconds.

    A server with a GPU is never idle then, and one that takes long over a request does not have
    requests wait until their time is up.
    """
    return AT_ONCE if waited < _QUICK_SECONDS else 1


def embeddings_of(request: pb.EmbedRequest, response: pb.EmbedResponse) -> Sequence[pb.Embedding]:
    """Returns the embeddings of an answer; raises `Internal` if not each input has one."""
    if len(response.embeddings) != len(request.inputs):
        raise Internal(
            f"{len(response.embeddings)} embeddings came for {len(request.inputs)} inputs"
        )
    return response.embeddings


class MergedRanking:
    """Merges the orders that several requests came back in into one."""

    def __init__(self, candidates: Sequence[InputLike]) -> None:
        self.count = 0
        """How many candidates have been ranked so far."""
        self._candidates = candidates
        self._space = OneSpace()
        self._ranked: list[Ranked] = []
        self._last = pb.RankResponse()

    def add(self, request: pb.RankRequest, response: pb.RankResponse) -> None:
        """Adds the answer to the next request; raises `SpaceChanged` if its space is another."""
        self._space.check(response)
        self._ranked += [
            Ranked(index := self.count + r.index, r.score, r.truncated, self._candidates[index])
            for r in response.candidates
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
def counted_from(answered: Callable[[], int]) -> Iterator[None]:
    """Mends the index in errors of a request, before which ``answered`` inputs had their answers.

    Servers count from the first input of a request, callers from the first of the call.
    """
    try:
        yield
    except VLM2VecError as error:
        # Where we found the fault ourselves, the index is right.
        if error.id is None and (at_fault := _INDEXED.match(error.field)):
            first = answered()
            error.id = first + int(at_fault["index"])
            error.field = f"{at_fault['list']}[{error.id}]{at_fault['rest']}"
            if first:
                error.add_note(f"Counted from the first of the call, it is {error.field}.")
        raise


_INDEXED = re.compile(r"(?P<list>inputs|candidates)\[(?P<index>\d+)\](?P<rest>.*)")


def _room(limits: Limits, options: pb.CallOptions) -> Limits:
    return _less(limits, options.ByteSize() + 2 * _OVERHEAD + _SPACE)


def _less(limits: Limits, taken: int) -> Limits:
    return replace(limits, message_bytes=limits.message_bytes - taken)


def _groups(
    inputs: Iterable[InputLike], instruction: str | None, limits: Limits, field: str
) -> Iterator[list[pb.Input]]:
    """Yields the messages of ``inputs``, each time as many as one request may hold.

    ``field`` is what errors call the list of them.
    """
    group: list[pb.Input] = []
    size = 0
    limit_of_one = _less(limits, _OVERHEAD)
    most_bytes = min(MAX_BYTES, limits.message_bytes)
    for index, item in enumerate(inputs):
        try:
            message = to_proto(item, instruction, limit_of_one, f"{field}[{index}]")
        except InvalidInput as error:
            error.id = index
            raise
        added = message.ByteSize() + _OVERHEAD
        if group and (len(group) == MAX_INPUTS or size + added > most_bytes):
            yield group
            group, size = [], 0
        group.append(message)
        size += added
    if group:
        yield group
