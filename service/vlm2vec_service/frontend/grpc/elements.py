"""Counts the elements of a protobuf message before it is parsed.

The parser makes an object of every two bytes, if they say so: tens of millions for one message, in
one call into C, while nothing else runs in the process.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from vlm2vec_service.errors import InvalidInputError

PACKED_BYTES = 8
"""Bytes of packed numbers that take as long to parse as one element of another kind."""
VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
"""The wire types of protobuf's encoding that have a payload."""
FIXED = {FIXED64: 8, FIXED32: 4}
MAX_VARINT_BYTES = 10


@dataclass(frozen=True)
class MessageLimits:
    """How many elements a message may have, and how many bytes each of its strings."""

    max_elements: int
    max_string_bytes: int


@dataclass(frozen=True)
class _Field:
    """What matters of a field: whether it holds text, packed numbers or a ``message``."""

    name: str
    is_text: bool
    is_packed: bool
    message: Descriptor | None


def check_message(data: bytes, message: Descriptor, limits: MessageLimits) -> None:
    """Checks ``data``, which encodes ``message``, against ``limits``. An element is a field that is
    there, at any depth, whether the message knows it or not.

    Raises `InvalidInputError` that names the limit. Malformed data is left to the parser, which
    reads no further than to its fault.
    """
    elements = 0
    for field, length in _elements(data, message):
        elements += 1
        if field is not None and field.is_packed:
            elements += length // PACKED_BYTES
        if elements > limits.max_elements:
            raise InvalidInputError(
                "request", f"more elements than max_elements, {limits.max_elements}"
            )
        if field is not None and field.is_text and length > limits.max_string_bytes:
            raise InvalidInputError(
                "request",
                f"{length} bytes in {field.name}; no string may have more than "
                f"{limits.max_string_bytes}",
            )


def _elements(data: bytes, message: Descriptor) -> Iterator[tuple[_Field | None, int]]:
    """Each element with the bytes of its payload, the elements of a message in it after it; what
    the message does not know, and what is a number, as None."""
    unread = [(0, len(data), message)]
    while unread:
        at, end, kind = unread.pop()
        fields = _fields(kind)
        while at < end:
            field = None
            try:
                tag, at = _varint(data, at)
                wire_type = tag & 7
                length = FIXED.get(wire_type, 0)
                if wire_type == VARINT:
                    _, at = _varint(data, at)
                elif wire_type > FIXED32:
                    break
                elif wire_type == LENGTH:
                    length, at = _varint(data, at)
                    field = fields.get(tag >> 3)
                    if field is not None and field.message is not None:
                        unread.append((at, min(end, at + length), field.message))
            except IndexError:
                break
            yield field, length
            at += length


@functools.cache
def _fields(message: Descriptor) -> dict[int, _Field]:
    """The fields of ``message`` by number."""
    bytes_or_text = (FieldDescriptor.TYPE_BYTES, FieldDescriptor.TYPE_STRING)
    return {
        field.number: _Field(
            field.name,
            is_text=field.type == FieldDescriptor.TYPE_STRING,
            is_packed=field.type not in bytes_or_text and field.message_type is None,
            message=field.message_type,
        )
        for field in message.fields
    }


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The number that starts at ``at``, and where it ends. Raises `IndexError` if it does not."""
    if data[at] < 128:  # most are
        return data[at], at + 1
    value = 0
    for index in range(MAX_VARINT_BYTES):
        byte = data[at + index]
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, at + index + 1
    raise IndexError
