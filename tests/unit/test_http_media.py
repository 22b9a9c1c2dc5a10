"""Media in JSON bodies as the messages of gRPC, in every way in which they may be written."""

import base64
from typing import Any

import pytest

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.inputs import InputReader, Task
from vlm2vec_service.frontend.http.media_text import IN_CHAT, IN_INPUT, IN_TEXTS, check_no_media
from vlm2vec_service.settings import Limits

BASE64 = base64.b64encode(b"sound").decode()
URI = f"data:audio/wav;base64,{BASE64}"
AUDIO = pb.Part(audio=pb.Audio(file=b"sound"))


def read(value: Any, limits: Limits | None = None) -> pb.Input:
    (message,) = InputReader(limits or Limits(), max_inputs=2).inputs(value, "input", Task())
    return message


@pytest.mark.parametrize(
    "value",
    [
        {"audio_url": URI},
        {"audio_url": {"url": URI}},
        {"input_audio": {"data": BASE64, "format": "wav"}},
        {"input_audio": {"data": URI}},
        {"content": [{"type": "audio_url", "audio_url": {"url": URI}}]},
        {"content": [{"type": "input_audio", "input_audio": {"data": BASE64, "format": "mp3"}}]},
    ],
)
def test_ways_to_send_an_audio(value: dict[str, Any]) -> None:
    assert list(read(value).parts) == [AUDIO]


def test_media_and_text_keep_the_order_of_the_content() -> None:
    text = {"type": "text", "text": "a"}
    heard = {"type": "input_audio", "input_audio": {"data": BASE64, "format": "wav"}}
    seen = {"type": "image_url", "image_url": "data:image/png;base64,AAAA"}
    message = read({"content": [text, heard, seen, heard]})
    assert [part.WhichOneof("part") for part in message.parts] == [
        "text",
        "audio",
        "image",
        "audio",
    ]


def test_frames_may_have_a_rate() -> None:
    for head, fps in (("", 0.0), (";fps=2", 2.0), ("; FPS = 0.5 ;name=a", 0.5)):
        url = f"data:video/jpeg{head};base64,AAAA,AAAA"
        frames = read({"video_url": url}).parts[0].video.frames
        assert (len(frames.images), frames.fps) == (2, fps)


@pytest.mark.parametrize(
    ("value", "field", "problem"),
    [
        ({"input_audio": {"data": "*"}}, "input.input_audio", "no base64"),
        ({"input_audio": {"data": "A" * 40}}, "input.input_audio", "max_audio_bytes, 20"),
        ({"audio_url": f"data:audio/wav,{'a' * 21}"}, "input.audio_url", "max_audio_bytes, 20"),
    ],
)
def test_audios_that_cannot_be_read(value: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem) as refused:
        read(value, Limits(max_audio_bytes=20))
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("problem", "field", "named"),
    [
        ("audio", "inputs[0].audio", "input.input_audio"),
        ("file", "inputs[0].parts[1].audio.file", "input.input_audio"),
        ("both", "inputs[0].parts[0].image", "input.image_url"),
    ],
)
def test_errors_name_what_the_caller_wrote(problem: str, field: str, named: str) -> None:
    reader = InputReader(Limits(), max_inputs=2)
    media = {"image_url": "data:image/png;base64,AAAA", "input_audio": {"data": BASE64}}
    reader.inputs(media, "input", Task())
    with pytest.raises(InvalidInputError) as refused, reader.own_words():
        raise InvalidInputError(field, problem)
    assert (refused.value.field, refused.value.problem) == (named, problem)


@pytest.mark.parametrize(
    "text",
    [URI, "https://example.com/a.WAV", " http://example.com/b.mp3?c=d\n", "https://a/b.opus"],
)
def test_audios_that_were_sent_as_text(text: str) -> None:
    for ways in (IN_INPUT, IN_CHAT, IN_TEXTS):
        with pytest.raises(InvalidInputError, match=r"embedded as text; send .*audio_url"):
            check_no_media(text, "input", ways)
    check_no_media(f"hear {text}", "input", IN_INPUT)
    check_no_media("https://example.com/wav", "input", IN_INPUT)
