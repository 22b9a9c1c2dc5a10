"""Messages to requests, and vectors to bytes."""

import io
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.parity.audio_specs import wav, waveform
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
SOUND = {
    "rate": 22_050,
    "samples": 6_615,
    "format": "int16",
    "channels": [
        {"kind": "tones", "tones": [[220, 0.4], [330, 0.2]]},
        {"kind": "noise", "seed": 1, "gain": 0.5},
    ],
}
AUDIO = pb.Part(audio=pb.Audio(file=wav(SOUND)))


def samples(**values: Any) -> pb.Part:
    """The part of samples that are fine but for ``values``."""
    given = {"data": bytes(64), "rate": 16_000, **values}
    return pb.Part(audio=pb.Audio(samples=pb.Samples(**given)))


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


def test_samples_are_what_their_file_is() -> None:
    sound = waveform(SOUND)
    whole = (sound * 32768).astype("<i2").tobytes()
    parts = [
        AUDIO,
        samples(data=whole, format=pb.SAMPLE_FORMAT_INT16, rate=22_050, channels=2),
        samples(data=sound.tobytes(), format=pb.SAMPLE_FORMAT_FLOAT32, rate=22_050, channels=2),
        samples(data=sound.tobytes(), rate=22_050, channels=2),
        TEXT,
    ]
    request = parse_input(pb.Input(parts=parts), Limits(), 8)
    assert request.parts == (*[Medium.AUDIO] * 4, "a")
    file, *others = (audio.samples(0.2) for audio in request.audios)
    assert file.shape == (3200,)
    for other in others:
        np.testing.assert_allclose(other, file, atol=1e-6)
    (mono,) = parse_input(pb.Input(parts=[samples(rate=16_000)]), Limits(), 8).audios
    assert mono.samples(1.0).shape == (16,)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (pb.Input(parts=[AUDIO] * 5), "parts"),
        (pb.Input(parts=[pb.Part(audio=pb.Audio())]), "parts[0].audio"),
        (pb.Input(parts=[TEXT, pb.Part(audio=pb.Audio(file=png()))]), "parts[1].audio.file"),
        (pb.Input(parts=[samples(rate=999)]), "parts[0].audio.samples.rate"),
        (pb.Input(parts=[samples(rate=768_001)]), "parts[0].audio.samples.rate"),
        (pb.Input(parts=[samples(channels=33)]), "parts[0].audio.samples.channels"),
        (pb.Input(parts=[samples(format=9)]), "parts[0].audio.samples.format"),
        (pb.Input(parts=[samples(channels=3)]), "parts[0].audio.samples.data"),
        (pb.Input(parts=[samples(data=b"abc")]), "parts[0].audio.samples.data"),
        (pb.Input(parts=[samples(data=bytes(52_428_804))]), "parts[0].audio.samples.data"),
        (pb.Input(parts=[samples(data=b"")]), "parts[0].audio.samples"),
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
        (pb.Input(parts=[AUDIO]), "audio"),
        (pb.Input(parts=[AUDIO], prompt="p"), "audio_text"),
        (pb.Input(parts=[AUDIO, IMAGE]), "image_audio"),
        (pb.Input(parts=[AUDIO, IMAGE, FRAMES, TEXT]), "video_audio_text"),
    ],
)
def test_modality(message: pb.Input, expected: str) -> None:
    assert modality(message) == expected
    assert expected in MODALITIES
