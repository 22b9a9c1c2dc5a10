"""Prepared inputs and vectors as the messages between front end and worker."""

import math
import os
from collections.abc import Iterable, Sequence
from mmap import mmap
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.prepared import Kind, Media, Prepared, in_order
from vlm2vec_service.worker.pixel_file import PixelFile, mapped

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
    rest: worker_pb2.RunBatchRequest,
    inputs: Iterable[tuple[Prepared, str, bool | None]],
    file: PixelFile | None = None,
) -> bytes:
    """Serialises a `RunBatchRequest`: ``rest`` of it, and its items, each with the name of its
    adapter, empty for the base model, and whether its vector is to get length 1. Their pixels go
    into ``file``, if there is one that has room for them.

    Protobuf's own way copies pixels five times; this copies them once.
    """
    pieces: list[Buffer] = [rest.SerializeToString()]
    if file is not None:
        name = worker_pb2.PixelFile(
            process=os.getpid(), descriptor=file.descriptor, inode=file.inode
        )
        pieces.append(worker_pb2.RunBatchRequest(file=name).SerializeToString())
    for prepared, adapter, normalize in inputs:
        pieces += _field(ITEMS, _item(prepared, adapter, normalize, file))
    return b"".join(pieces)


def _item(
    prepared: Prepared, adapter: str, normalize: bool | None, file: PixelFile | None
) -> list[Buffer]:
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
            offset=file.write(media.values) if file else 0,
        )
        pixels: list[Buffer] = []
        if file is None:
            values = np.ascontiguousarray(media.values).data.cast("B")
            pixels = _field(PIXELS, [values])
        pieces += _field(MEDIA, [*pixels, rest.SerializeToString()])
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


def decode_batch(request: worker_pb2.RunBatchRequest) -> list[Prepared]:
    """The inputs that `encode_batch` packed; their arrays are views of the message, or of the file
    that it names.

    Raises `InvalidInputError` that names the item whose pixels are not there, and `UnmappedError`.
    """
    named = request.file if request.HasField("file") else None
    file = named and mapped(named.process, named.descriptor, named.inode)
    return [_prepared(item, file, f"items[{index}]") for index, item in enumerate(request.items)]


def _prepared(item: worker_pb2.Item, file: mmap | None, field: str) -> Prepared:
    token_ids = np.frombuffer(item.token_ids, np.int32)
    if item.positions:
        positions = np.frombuffer(item.positions, np.int32).reshape(3, -1)
    else:
        positions = in_order(len(token_ids))
    media = tuple(
        _media(part, file, f"{field}.media[{index}]") for index, part in enumerate(item.media)
    )
    return Prepared(token_ids, positions, media, pooled=item.pooled or 1, both_ways=item.both_ways)


def _media(part: worker_pb2.Media, file: mmap | None, field: str) -> Media:
    kind: Kind = "audio" if part.audio else "video" if part.video else "image"
    if kind == "audio":
        values = _values(part, (part.frames, part.height), np.float32, file, field)
    else:
        shape = part.frames, part.height, part.width, 3
        values = _values(part, shape, np.uint8, file, field)
    return Media(kind, values, part.start, part.tokens, part.digest)


def _values(
    part: worker_pb2.Media,
    shape: Sequence[int],
    dtype: type[np.float32 | np.uint8],
    file: mmap | None,
    field: str,
) -> npt.NDArray[Any]:
    """The array of ``part`` in its pixels, or in ``file`` if there is one."""
    count = math.prod(shape)
    nbytes = count * np.dtype(dtype).itemsize
    if file is None:
        if len(part.pixels) != nbytes:
            raise InvalidInputError(
                f"{field}.pixels", f"{len(part.pixels)} bytes, but {shape} takes {nbytes}"
            )
        return np.frombuffer(part.pixels, dtype).reshape(shape)
    if part.offset + nbytes > len(file):
        raise InvalidInputError(
            f"{field}.offset",
            f"{nbytes} bytes from {part.offset} on are more than the file's {len(file)}",
        )
    return np.frombuffer(file, dtype, count, part.offset).reshape(shape)


def decode_vectors(response: worker_pb2.RunBatchResponse, count: int) -> npt.NDArray[np.float32]:
    """float32 ``(count, dim)``."""
    return np.frombuffer(response.vectors, np.float32).reshape(count, -1)
