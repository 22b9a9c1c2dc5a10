"""Prepared inputs and vectors as the messages between front end and worker."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.preprocess.prepared import Kind, Media, Prepared, in_order

ARITHMETIC = 1
"""Version of the engine's arithmetic: raised whenever vectors change by more than rounding, so that
a front end notices a worker of another release whose vectors are not those of the space."""
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""A batch is as large as admission let it become; there is no second limit on this hop."""

Buffer: TypeAlias = bytes | bytearray | memoryview
LENGTH_DELIMITED = 2
"""Protobuf's wire type of bytes and messages."""
ITEMS = worker_pb2.RunBatchRequest.ITEMS_FIELD_NUMBER
MEDIA = worker_pb2.Item.MEDIA_FIELD_NUMBER
PIXELS = worker_pb2.Media.PIXELS_FIELD_NUMBER


def encode_batch(
    rest: worker_pb2.RunBatchRequest, inputs: Iterable[tuple[Prepared, str, bool | None]]
) -> bytes:
    """Serialises a `RunBatchRequest`: ``rest`` of it, and its items, each with the name of its
    adapter, empty for the base model, and whether its vector is to get length 1.

    Protobuf's own way copies pixels five times; this copies them once.
    """
    pieces: list[Buffer] = [rest.SerializeToString()]
    for prepared, adapter, normalize in inputs:
        pieces += _field(ITEMS, _item(prepared, adapter, normalize))
    return b"".join(pieces)


def _item(prepared: Prepared, adapter: str, normalize: bool | None) -> list[Buffer]:
    positions, plain = prepared.positions, in_order(len(prepared))
    is_plain = positions is plain or np.array_equal(positions, plain)
    item = worker_pb2.Item(
        token_ids=prepared.token_ids.tobytes(),
        positions=b"" if is_plain else positions.tobytes(),
        adapter=adapter,
        normalize=normalize,
        pooled=prepared.pooled,
        both_ways=prepared.both_ways,
    )
    pieces: list[Buffer] = [item.SerializeToString()]
    for media in prepared.media:
        frames, height, width = (*media.values.shape, 0)[:3]
        rest = worker_pb2.Media(
            frames=frames,
            height=height,
            width=width,
            start=media.start,
            tokens=media.tokens,
            video=media.kind == "video",
            audio=media.kind == "audio",
            digest=media.digest,
        )
        values = np.ascontiguousarray(media.values).data.cast("B")
        pieces += _field(MEDIA, [*_field(PIXELS, [values]), rest.SerializeToString()])
    return pieces


def _field(number: int, pieces: list[Buffer]) -> list[Buffer]:
    """The field ``number`` of a message, whose bytes are ``pieces``, as protobuf encodes it."""
    head = bytearray([number << 3 | LENGTH_DELIMITED])
    size = sum(map(len, pieces))
    while size > 127:
        head.append(size & 127 | 128)
        size >>= 7
    head.append(size)
    return [head, *pieces]


def decode_item(item: worker_pb2.Item) -> Prepared:
    """The input that `encode_batch` packed; its arrays are views of the message."""
    token_ids = np.frombuffer(item.token_ids, np.int32)
    if item.positions:
        positions = np.frombuffer(item.positions, np.int32).reshape(3, -1)
    else:
        positions = in_order(len(token_ids))
    media = tuple(map(_media, item.media))
    return Prepared(token_ids, positions, media, pooled=item.pooled or 1, both_ways=item.both_ways)


def _media(part: worker_pb2.Media) -> Media:
    kind: Kind = "audio" if part.audio else "video" if part.video else "image"
    if kind == "audio":
        values = np.frombuffer(part.pixels, np.float32).reshape(part.frames, part.height)
        return Media(kind, values, part.start, part.tokens, part.digest)
    shape = part.frames, part.height, part.width, 3
    pixels = np.frombuffer(part.pixels, np.uint8).reshape(shape)
    return Media(kind, pixels, part.start, part.tokens, part.digest)


def decode_vectors(response: worker_pb2.RunBatchResponse, count: int) -> npt.NDArray[np.float32]:
    """float32 ``(count, dim)``."""
    return np.frombuffer(response.vectors, np.float32).reshape(count, -1)
