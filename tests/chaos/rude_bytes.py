"""Bytes that broken, hostile or lost clients send instead of calls."""

import random
import struct

from tests.e2e.cases import options, text
from vlm2vec.v1 import embedding_pb2 as pb


def frame(kind: int, payload: bytes, flags: int = 0, stream: int = 0) -> bytes:
    """An HTTP/2 frame; ``kind`` is its type as a number."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def headers(**fields: str) -> bytes:
    """An HTTP/2 HEADERS frame that opens stream 1."""
    payload = b"".join(
        b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
        for name, value in fields.items()
    )
    return frame(1, payload, flags=4, stream=1)


def rude_bytes() -> list[bytes]:
    """What such clients send on one connection each before they fall silent."""
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, b"")
    open_call = preface + headers(
        **{
            ":method": "POST",
            ":scheme": "http",
            ":path": "/vlm2vec.v1.EmbeddingService/Embed",
            ":authority": "localhost",
            "content-type": "application/grpc",
            "te": "trailers",
        }
    )
    message = pb.EmbedRequest(options=options(), inputs=[text("a")]).SerializeToString()
    prefixed = b"\0" + struct.pack(">I", len(message)) + message
    noise = random.Random(0).randbytes(4096)
    return [
        b"",
        preface[:10],
        preface,
        preface + noise,
        noise,
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise[:200],
        open_call,
        open_call + frame(0, prefixed[:3], stream=1),
        open_call + frame(0, prefixed[:-5], stream=1),
        open_call + frame(0, prefixed, stream=1)[:-5],
        open_call + frame(0, b"\0\xff\xff\xff\xff" + noise, stream=1),
        open_call + frame(0, b"\1" + prefixed[1:], flags=1, stream=1),
        open_call + frame(0, prefixed[:-5], flags=1, stream=1),
        open_call + frame(0, prefixed, stream=99),
        open_call + headers(**{":path": "/"}),
        preface + struct.pack(">I", 2**24 - 1)[1:] + b"\0\0\0\0\0\1",
        preface + frame(6, b"12345678") * 1000,
    ]
