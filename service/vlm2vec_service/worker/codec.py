"""Prepared inputs and vectors as the messages between front end and worker."""

import numpy as np
import numpy.typing as npt

from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.preprocess.prepared import Media, Prepared, in_order

ARITHMETIC = 1
"""Version of the engine's arithmetic: raised whenever vectors change by more than rounding, so that
a front end notices a worker of another release whose vectors are not those of the space."""
CHANNEL_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
"""A batch is as large as admission let it become; there is no second limit on this hop."""


def encode_item(prepared: Prepared, adapter: str, normalize: bool | None) -> worker_pb2.Item:
    """One input as it travels; ``adapter`` is empty for the base model."""
    positions, plain = prepared.positions, in_order(len(prepared))
    is_plain = positions is plain or np.array_equal(positions, plain)
    item = worker_pb2.Item(
        token_ids=prepared.token_ids.tobytes(),
        positions=b"" if is_plain else positions.tobytes(),
        adapter=adapter,
        normalize=normalize,
    )
    for media in prepared.media:
        frames, height, width, _ = media.pixels.shape
        item.media.add(
            pixels=media.pixels.tobytes(),
            frames=frames,
            height=height,
            width=width,
            start=media.start,
            tokens=media.tokens,
            video=media.kind == "video",
            digest=media.digest,
        )
    return item


def decode_item(item: worker_pb2.Item) -> Prepared:
    """The input that `encode_item` packed; its arrays are views of the message."""
    token_ids = np.frombuffer(item.token_ids, np.int32)
    if item.positions:
        positions = np.frombuffer(item.positions, np.int32).reshape(3, -1)
    else:
        positions = in_order(len(token_ids))
    media = tuple(
        Media(
            "video" if part.video else "image",
            np.frombuffer(part.pixels, np.uint8).reshape(part.frames, part.height, part.width, 3),
            part.start,
            part.tokens,
            part.digest,
        )
        for part in item.media
    )
    return Prepared(token_ids, positions, media)


def decode_vectors(response: worker_pb2.RunBatchResponse, count: int) -> npt.NDArray[np.float32]:
    """float32 ``(count, dim)``."""
    return np.frombuffer(response.vectors, np.float32).reshape(count, -1)
