"""Messages to requests, and vectors to bytes."""

import io

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.limits import check_options
from vlm2vec_service.frontend.vectors import encode_vector
from vlm2vec_service.metrics import MODALITIES
from vlm2vec_service.preprocess.messages import modality, parse_input
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Medium
from vlm2vec_service.settings import Limits

VECTOR = np.array([0.6, -0.8, 0.0, 0.25], np.float32)


def png() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(file, "PNG")
    return file.getvalue()


TEXT, IMAGE = pb.Part(text="a"), pb.Part(image=png())
FRAMES = pb.Part(video=pb.Video(frames=pb.Frames(images=[png(), png()])))


def encoded(vector: npt.NDArray[np.float32], options: pb.OutputOptions, unit: bool) -> pb.Vector:
    message = pb.Vector()
    encode_vector(vector, options, unit, message)
    return message


def test_float_formats() -> None:
    for dtype, numpy in ((pb.DTYPE_UNSPECIFIED, "<f4"), (pb.DTYPE_FLOAT16, "<f2")):
        vector = encoded(VECTOR, pb.OutputOptions(dtype=dtype), unit=True)
        np.testing.assert_array_equal(np.frombuffer(vector.data, numpy), VECTOR.astype(numpy))
        assert vector.dimension == 4
        assert vector.dtype == (dtype or pb.DTYPE_FLOAT32)


def test_int8_and_binary() -> None:
    int8 = encoded(VECTOR, pb.OutputOptions(dtype=pb.DTYPE_INT8), unit=True)
    values = np.frombuffer(int8.data, np.int8).astype(np.float32)
    np.testing.assert_allclose(values * (int8.scale / 127), VECTOR, atol=int8.scale / 250)
    binary = encoded(VECTOR, pb.OutputOptions(dtype=pb.DTYPE_BINARY), unit=True)
    assert np.unpackbits(np.frombuffer(binary.data, np.uint8), count=4).tolist() == [1, 0, 0, 1]
    zeros = encoded(np.zeros(3, np.float32), pb.OutputOptions(dtype=pb.DTYPE_INT8), True)
    assert (zeros.data, zeros.scale) == (b"\0\0\0", 1.0)


@pytest.mark.parametrize("unit", [True, False])
def test_dimensions(unit: bool) -> None:
    vector = encoded(VECTOR, pb.OutputOptions(dimensions=1), unit)
    assert np.frombuffer(vector.data, "<f4").tolist() == pytest.approx([1.0 if unit else 0.6])
    assert vector.dimension == 1


def test_parts_become_a_request() -> None:
    message = pb.Input(instruction="i", parts=[IMAGE, TEXT, FRAMES, pb.Part(text="b")])
    request = parse_input(message, Limits(), 8)
    assert (request.instruction, request.texts, request.prompt) == ("i", ("a", "b"), None)
    assert request.parts == (Medium.IMAGE, "a", Medium.VIDEO, "b")
    for source in (request.images, *request.videos):
        assert set(Pictures.of(source, "viewed").sizes) == {(4, 3)}
    assert (len(request.images), *map(len, request.videos)) == (1, 2)
    fast = pb.Part(video=pb.Video(frames=pb.Frames(images=[png()], fps=3)))
    videos = parse_input(pb.Input(parts=[FRAMES, fast]), Limits(), 8).videos
    assert [getattr(video, "fps", 0) for video in videos] == [None, 3]
    raw = parse_input(pb.Input(prompt="p", parts=[IMAGE]), Limits(), 8)
    assert (raw.prompt, raw.text, len(raw.images)) == ("p", None, 1)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Input(parts=[pb.Part()]), "parts[0]"),
        (pb.Input(parts=[TEXT, pb.Part(image=b"x")]), "parts[1].image"),
        (pb.Input(prompt="p", parts=[TEXT]), "parts[0].text"),
        (pb.Input(parts=[FRAMES] * 5), "parts"),
        (
            pb.Input(parts=[pb.Part(video=pb.Video(frames=pb.Frames(images=[png()], fps=2000)))]),
            "parts[0].video.frames.fps",
        ),
        (pb.Input(parts=[pb.Part(video=pb.Video())]), "parts[0].video"),
        (pb.Input(parts=[pb.Part(video=pb.Video(file=b"x"))]), "parts[0].video.file"),
        (
            pb.Input(parts=[pb.Part(video=pb.Video(frames=pb.Frames(images=[png(), b"x"])))]),
            "parts[0].video.frames.images[1]",
        ),
        (
            pb.Input(parts=[pb.Part(video=pb.Video(frames=pb.Frames(images=[b""] * 65)))]),
            "parts[0].video.frames",
        ),
        (pb.Input(parts=[IMAGE] * 17), "parts"),
    ],
)
def test_bad_parts_are_named(message: pb.Input, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_input(message, Limits(), 8)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (pb.CallOptions(model=pb.ModelRef(name="n" * 300)), "options.model.name"),
        (pb.CallOptions(model=pb.ModelRef(alias="")), "options.model.alias"),
        (pb.CallOptions(model=pb.ModelRef(space="s" * 300)), "options.model.space"),
        (pb.CallOptions(routing_key="k" * 300), "options.routing_key"),
        (pb.CallOptions(priority=9), "options.priority"),  # type: ignore[arg-type]
        (pb.CallOptions(output=pb.OutputOptions(dtype=9)), "options.output.dtype"),  # type: ignore[arg-type]
        (pb.CallOptions(truncate=8193), "options.truncate"),
    ],
)
def test_bad_options_are_named(options: pb.CallOptions, field: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        check_options(options, 8192)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        (pb.Input(prompt="p"), "text"),
        (pb.Input(), "text"),
        (pb.Input(parts=[IMAGE]), "image"),
        (pb.Input(parts=[IMAGE], instruction="i"), "image_text"),
        (pb.Input(parts=[FRAMES, TEXT]), "video_text"),
    ],
)
def test_modality(message: pb.Input, expected: str) -> None:
    assert modality(message) == expected
    assert expected in MODALITIES
