"""Items of a stream, and the requests that carry them."""

from typing import TypeAlias

from vlm2vec.errors import InvalidInput
from vlm2vec.inputs import InputLike, to_proto
from vlm2vec.v1 import embedding_pb2 as pb

Id: TypeAlias = int | str
"""The name of an item, which tells it from others of its stream; an int travels as its digits."""
Item: TypeAlias = InputLike | tuple[Id, InputLike]
"""An input, whose id is then its place in the stream, from 0; or a pair of an id and an input."""

_MAX_ID_BYTES = 256
_OVERHEAD = 300
"""Bytes of a request around its input and options: id, lengths and field numbers, at most."""


class StreamRequests:
    """Makes the requests of a stream, and gives ids to the items that have none."""

    def __init__(
        self, options: pb.CallOptions, instruction: str | None, max_message_bytes: int
    ) -> None:
        """Takes what all requests share: ``instruction`` is for the items that have none."""
        self._options = options
        self._instruction = instruction
        self._max_bytes = max_message_bytes - options.ByteSize() - _OVERHEAD
        self._count = 0

    def make(self, item: Item) -> tuple[Id, pb.EmbedStreamRequest | InvalidInput]:
        """Returns the item's id, and its request or the error that says why there is none.

        Reads files and encodes pixels. Raises ValueError for an id that is not 1 to 256 bytes of
        UTF-8, and TypeError for something that is no item.
        """
        id, source = item if isinstance(item, tuple) else (self._count, item)
        self._count += 1
        if not isinstance(id, int | str):
            raise TypeError(f"an id is int or str, not {type(id).__name__}")
        wire_id = str(id)
        if not 0 < len(wire_id.encode()) <= _MAX_ID_BYTES:
            raise ValueError(f"an id has 1 to {_MAX_ID_BYTES} bytes, unlike {wire_id!r}")
        try:
            message = to_proto(source, self._instruction, self._max_bytes)
        except InvalidInput as error:
            error.id = id
            return id, error
        return id, pb.EmbedStreamRequest(id=wire_id, options=self._options, input=message)
