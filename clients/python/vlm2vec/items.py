"""Items of a stream to its requests."""

from typing import TypeAlias

from vlm2vec.errors import InvalidInput
from vlm2vec.inputs import InputLike, to_proto
from vlm2vec.v1 import embedding_pb2 as pb

Id: TypeAlias = int | str
"""What tells items of a stream apart; an int travels as its digits."""
Item: TypeAlias = InputLike | tuple[Id, InputLike]
"""An input, whose id is then its index, or an id and an input."""

_MAX_ID_BYTES = 256
_OVERHEAD = 300
"""Bytes of a request around its input and options: id, lengths and field numbers, at most."""


class Requests:
    """Gives items ids, and makes their requests."""

    def __init__(
        self, options: pb.CallOptions, instruction: str | None, max_message_bytes: int
    ) -> None:
        """All requests have ``options``, and ``instruction`` where the item has none."""
        self._options = options
        self._instruction = instruction
        self._max_bytes = max_message_bytes - options.ByteSize() - _OVERHEAD
        self._count = 0

    def make(self, item: Item) -> tuple[Id, pb.EmbedStreamRequest | InvalidInput]:
        """The item's id, and its request or why there is none.

        Reads files. Raises ValueError for an id that is not 1 to 256 bytes, TypeError for what is
        no item.
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
