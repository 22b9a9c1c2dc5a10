"""Items of a stream, and the requests that carry them."""

from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol, TypeAlias, TypeGuard

from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import Limits
from vlm2vec.inputs import InputLike, to_proto
from vlm2vec.v1 import embedding_pb2 as pb

Id: TypeAlias = int | str
"""The name of an item, which tells it from others of its stream; an int travels as its digits."""
Item: TypeAlias = InputLike | tuple[Id, InputLike]
"""A pair of an id and an input; or an input alone, whose id is that of a row, or else its place in
the stream, from 0."""

_MOST_TOGETHER = 64
"""Requests in one message of a stream, at most."""
_TOGETHER_BYTES = 4096
"""Bytes of a request that goes with others: of these the message takes the most time."""
_MAX_ID_BYTES = 256
_OVERHEAD = 300
"""Bytes of a request around its input and options: id, lengths and field numbers, at most."""


class StreamRequests:
    """Makes the requests of a stream, and gives ids to the items that have none."""

    def __init__(self, options: pb.CallOptions, instruction: str | None, limits: Limits) -> None:
        """Takes what all requests share: ``instruction`` is for the items that have none."""
        self._options = options
        self._instruction = instruction
        room = limits.message_bytes - options.ByteSize() - _OVERHEAD
        self._limits = replace(limits, message_bytes=room)
        self._count = 0

    def make(self, item: Item) -> tuple[Id, pb.EmbedStreamRequest | InvalidInput]:
        """Returns the item's id, and its request or the error that says why there is none.

        Reads files and encodes pixels. Raises ValueError for an id that is not 1 to 256 bytes of
        UTF-8, and TypeError for something that is no item.
        """
        id, source = _named(item, self._count)
        self._count += 1
        if not isinstance(id, int | str):
            raise TypeError(f"an id is int or str, not {type(id).__name__}")
        wire_id = str(id)
        if not 0 < len(wire_id.encode()) <= _MAX_ID_BYTES:
            raise ValueError(f"an id has 1 to {_MAX_ID_BYTES} bytes, unlike {wire_id!r}")
        try:
            message = to_proto(source, self._instruction, self._limits, f"the item {id!r}")
        except InvalidInput as error:
            error.id = id
            return id, error
        return id, pb.EmbedStreamRequest(id=wire_id, options=self._options, input=message)


def _named(item: Item, place: int) -> tuple[Id, InputLike]:
    """Returns the id and the input of an item; the id is its ``place`` where it has none."""
    if isinstance(item, tuple):
        if len(item) != 2:
            raise TypeError(f"a tuple is an id and an input, not {len(item)} things")
        return item
    if isinstance(item, Mapping) and "id" in item:
        return item["id"], item
    return place, item


class Queued(Protocol):
    """A queue, of which nobody else takes."""

    def empty(self) -> bool: ...

    def get_nowait(self) -> pb.EmbedStreamRequest | None: ...


def next_message(
    waiting: deque[pb.EmbedStreamRequest | None], queued: Queued, takes_more: bool
) -> pb.EmbedStreamRequest | None:
    """Takes the next message from the front of ``waiting``, where something is: a request; None if
    that is in front. Where the server ``takes_more``, those behind it go in ``more`` as long as all
    are small, what is ``queued`` included."""
    while takes_more and len(waiting) < _MOST_TOGETHER and not queued.empty():
        waiting.append(queued.get_nowait())
    first = waiting.popleft()
    if not _is_small(first):
        return first
    more: list[pb.EmbedStreamRequest] = []
    while waiting and _is_small(waiting[0]):
        more.append(waiting[0])
        waiting.popleft()
    if not more:
        return first
    message = pb.EmbedStreamRequest(more=more)
    message.MergeFrom(first)  # which stays as it is: it may have to be sent again, alone
    return message


def _is_small(request: pb.EmbedStreamRequest | None) -> TypeGuard[pb.EmbedStreamRequest]:
    return request is not None and request.ByteSize() <= _TOGETHER_BYTES
