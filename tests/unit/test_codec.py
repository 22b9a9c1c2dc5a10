"""Batches on their way to a worker: what arrives is what was sent, in protobuf's own encoding."""

import numpy as np
import pytest

from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.prepared import Media, Prepared
from vlm2vec_service.worker.codec import decode_batch, encode_batch

NOISE = np.random.default_rng(0)


def media(kind: str, frames: int, side: int) -> Media:
    pixels = NOISE.integers(0, 256, (frames, side, side, 3), dtype=np.uint8)
    return Media.of("video" if kind == "video" else "image", pixels, 1, 4)


def audio(frames: int) -> Media:
    return Media.of("audio", NOISE.standard_normal((frames, 128), np.float32), 1, 4)


def prepared(tokens: int, *media: Media, moved: int = 0) -> Prepared:
    plain = Prepared.in_sequence(range(tokens), media)
    return Prepared(plain.token_ids, plain.positions + np.int32(moved), media)


WHOLE = media("image", 1, 56)
INPUTS = {
    "no token": prepared(0),
    "a text": prepared(9),
    "a long text, whose length takes three bytes": prepared(9000),
    "positions of its own": prepared(9, moved=3),
    "an image": prepared(9, media("image", 1, 28)),
    "an image of one pixel": prepared(9, media("image", 1, 1)),
    "an audio": prepared(9, audio(100)),
    "images, a video and audios": prepared(
        9, media("image", 1, 56), audio(3), media("video", 4, 28), audio(1)
    ),
    "images and a video": prepared(
        9, media("image", 1, 56), media("video", 4, 28), media("image", 1, 300)
    ),
}


@pytest.mark.parametrize("name", INPUTS)
@pytest.mark.parametrize(("adapter", "normalize"), [("", None), ("v1/7", True), ("ä" * 90, False)])
def test_an_input_arrives_as_it_was(name: str, adapter: str, normalize: bool | None) -> None:
    rest = worker_pb2.RunBatchRequest(interactive=True, caller_tokens={"a": 9, "b": 300})
    data = encode_batch(rest, [(INPUTS[name], adapter, normalize)] * 2)
    request = worker_pb2.RunBatchRequest.FromString(data)
    assert (request.interactive, dict(request.caller_tokens)) == (True, {"a": 9, "b": 300})
    assert len(request.items) == 2
    for item, arrived in zip(request.items, decode_batch(request), strict=True):
        same(arrived, INPUTS[name])
        assert item.adapter == adapter
        assert (item.normalize if item.HasField("normalize") else None) == normalize


def test_inputs_keep_their_order() -> None:
    data = encode_batch(
        worker_pb2.RunBatchRequest(), [(one, name, None) for name, one in INPUTS.items()]
    )
    request = worker_pb2.RunBatchRequest.FromString(data)
    assert [item.adapter for item in request.items] == list(INPUTS)
    for arrived, sent in zip(decode_batch(request), INPUTS.values(), strict=True):
        same(arrived, sent)
    # What protobuf writes itself is as long: no field is there twice.
    assert len(data) == request.ByteSize()


@pytest.mark.parametrize("shape", [(1, 56, 57), (2, 28, 28), (0, 28, 28)])
def test_an_item_without_its_pixels_is_refused_by_name(shape: tuple[int, int, int]) -> None:
    data = encode_batch(
        worker_pb2.RunBatchRequest(),
        [(one, "", None) for one in (prepared(5), prepared(9, media("image", 1, 28), WHOLE))],
    )
    request = worker_pb2.RunBatchRequest.FromString(data)
    part = request.items[1].media[1]
    part.frames, part.height, part.width = shape
    with pytest.raises(InvalidInputError, match=r"items\[1\].media\[1\].pixels: 9408 bytes"):
        decode_batch(request)


def test_pixels_that_do_not_lie_in_a_row_arrive() -> None:
    strided = NOISE.integers(0, 256, (1, 28, 56, 3), dtype=np.uint8)[:, :, ::2]
    one = prepared(5, Media.of("image", strided, 1, 4))
    request = worker_pb2.RunBatchRequest.FromString(
        encode_batch(worker_pb2.RunBatchRequest(), [(one, "", None)])
    )
    (arrived,) = decode_batch(request)
    same(arrived, one)


def same(arrived: Prepared, sent: Prepared) -> None:
    np.testing.assert_array_equal(arrived.token_ids, sent.token_ids)
    np.testing.assert_array_equal(arrived.positions, sent.positions)
    assert len(arrived.media) == len(sent.media)
    for one, other in zip(arrived.media, sent.media, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
        assert one.values.dtype == other.values.dtype
        assert (one.kind, one.start, one.tokens) == (other.kind, other.start, other.tokens)
        assert one.digest == other.digest
