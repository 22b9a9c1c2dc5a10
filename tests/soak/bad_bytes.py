"""Bytes that are no message of the method that they are sent to."""

import random

from tests.e2e.cases import options, text
from vlm2vec.v1 import embedding_pb2 as pb

MALFORMED = ("INVALID_ARGUMENT",)
EMBED, STREAM = "EmbeddingService/Embed", "EmbeddingService/EmbedStream"
DESCRIBE = "AdapterService/DescribeAdapter"
GOOD = pb.EmbedRequest(options=options("qwen"), inputs=[text("a")]).SerializeToString()


def _field(number: int, kind: int, payload: bytes = b"") -> bytes:
    """A field of a wire type; a payload of type 2 has its length before it."""
    tag = bytes([(number << 3) | kind])
    return tag + (_varint(len(payload)) + payload if kind == 2 else payload)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _nested(depth: int) -> bytes:
    """Groups within groups."""
    return b"\x23" * depth + b"\x24" * depth


_BROKEN = {
    "ones": b"\xff" * 3,
    "noise": random.Random(0).randbytes(4096),
    "half a message": GOOD[: len(GOOD) // 2],
    "one byte short": GOOD[:-1],
    "a length beyond the end": b"\x12\x7f\x0a",
    "a length of gigabytes": b"\x12\xff\xff\xff\xff\x07",
    "a length below zero": b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    "a varint that never ends": b"\x08" + b"\xff" * 20,
    "field number 0": b"\x00\x01",
    "wire type 7": b"\x0f\x01",
    "a group that ends before it begins": b"\x24",
    "a group without an end": b"\x23",
    "groups too deep": _nested(10_000),
    "no UTF-8 in a name": _field(1, 2, _field(1, 2, _field(1, 2, b"\xff\xfe"))),
    "no UTF-8 in a text": _field(2, 2, _field(2, 2, _field(1, 2, b"\xc3\x28"))),
    "half a surrogate pair": _field(2, 2, _field(2, 2, _field(1, 2, b"\xed\xa0\x80"))),
    "JSON": b'{"inputs": ["a"]}',
    "HTML": b"<html><body>a</body></html>",
}
_HARMLESS = {
    "an unknown field": GOOD + _field(15, 2, b"what is this"),
    "unknown fields of every type": GOOD + _field(14, 0, b"\x01") + _field(13, 1, bytes(8)),
    "a field of another wire type": GOOD + _field(1, 0, b"\x01"),
}
"""What protobuf passes over, and a newer client may send."""

MESSAGES: dict[str, tuple[str, bytes, tuple[str, ...]]] = {
    **{name: (EMBED, data, MALFORMED) for name, data in _BROKEN.items()},
    **{f"{name}, streamed": (STREAM, _BROKEN[name], MALFORMED) for name in ("ones", "noise")},
    **{f"{name}, to rank": ("EmbeddingService/Rank", _BROKEN[name], MALFORMED)
       for name in ("ones", "half a message", "HTML")},
    **{f"{name}, to adapters": (DESCRIBE, _BROKEN[name], MALFORMED)
       for name in ("ones", "noise", "HTML")},
    **{name: (EMBED, data, ("OK",)) for name, data in _HARMLESS.items()},
    "nothing": (EMBED, b"", MALFORMED),
    "nothing, to adapters": (DESCRIBE, b"", MALFORMED),
    "an unknown adapter": (DESCRIBE, _field(2, 2, b"none"), ("NOT_FOUND",)),
    "more than a message may have": (
        EMBED, _field(2, 2, _field(2, 2, _field(2, 2, bytes(67_108_864)))), ("RESOURCE_EXHAUSTED",),
    ),
    "an unknown method": ("EmbeddingService/Guess", GOOD, ("UNIMPLEMENTED",)),
    "an unknown service": ("Oracle/Embed", GOOD, ("UNIMPLEMENTED",)),
}  # fmt: skip
"""A method, the bytes, and the codes that they may get, by what is wrong with them."""
