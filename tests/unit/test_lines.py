"""Lines of JSON to requests, and what each key may hold."""

import base64
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.parity.audio_specs import wav
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.offline.lines import Line, LineReader
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Medium, Request
from vlm2vec_service.settings import Limits


def png(width: int = 6, height: int = 4) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height), (10, 20, 30)).save(buffer, "PNG")
    return buffer.getvalue()


def data_uri(data: bytes, kind: str = "image/png") -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def parse(folder: Path, limits: Limits | None = None, **values: Any) -> Line:
    reader = LineReader(folder, limits or Limits(), lambda adapter: 8)
    return reader.parse(json.dumps(values).encode())


def test_words_and_adapter_are_taken_as_they_are(tmp_path: Path) -> None:
    line = parse(tmp_path, id="a", adapter="v2", instruction="Find", text="a cat ")
    assert line == Line("a", "v2", Request(instruction="Find", text="a cat "))


@pytest.mark.parametrize(("id", "expected"), [("x y", "x y"), (7, "7"), (0, "0"), ("北", "北")])
def test_id_is_a_string_or_a_number(tmp_path: Path, id: str | int, expected: str) -> None:
    assert parse(tmp_path, id=id, prompt="a").id == expected


def test_null_is_as_good_as_nothing(tmp_path: Path) -> None:
    line = parse(tmp_path, id=1, adapter=None, prompt="a", images=None, video=None, text=None)
    assert line == Line("1", None, Request(prompt="a"))


def test_relative_and_absolute_paths_and_data_uris_are_opened(tmp_path: Path) -> None:
    (tmp_path / "inner").mkdir()
    path = tmp_path / "inner" / "ä b.png"
    path.write_bytes(png())
    line = parse(tmp_path, id=1, images=["inner/ä b.png", str(path), data_uri(png())])
    assert len(line.request.images) == 3
    for image in Pictures.of(line.request.images, "viewed"):
        assert np.asarray(image).tolist() == [[[10, 20, 30]] * 6] * 4


def test_video_is_a_list_of_frames(tmp_path: Path) -> None:
    line = parse(tmp_path, id=1, video=[data_uri(png(8, 8)), data_uri(png(8, 8))])
    (video,) = line.request.videos
    assert Pictures.of(video, "viewed").sizes == ((8, 8), (8, 8))


def sound(samples: int) -> bytes:
    voice = {"kind": "tones", "tones": [[220, 0.4]]}
    return wav({"rate": 16_000, "samples": samples, "format": "int16", "channels": [voice]})


def test_audios_are_files_and_data_uris(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(sound(3200))
    (audio,) = parse(tmp_path, id=1, audio="a.wav", text="a").request.audios
    assert audio.samples(1.0).shape == (3200,)
    uri = data_uri(sound(1600), "audio/wav")
    several = parse(tmp_path, id=1, prompt="<|AUDIO|>", audios=[uri, "a.wav"]).request
    assert [audio.samples(1.0).shape for audio in several.audios] == [(1600,), (3200,)]
    parts = [{"audio": "a.wav"}, {"text": "a"}, {"audio": uri}]
    request = parse(tmp_path, id=1, parts=parts).request
    assert request.parts == (Medium.AUDIO, "a", Medium.AUDIO)
    assert len(request.audios) == 2


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"audio": "none.wav"}, "audio: "),
        ({"audio": ["a.wav"]}, "audio: expected a path or a data URI"),
        ({"audios": "a.wav"}, "audios: expected a list of audios"),
        ({"audios": ["a.wav"] * 5}, "audios: 5 are more than max_audios, 4"),
        ({"audio": "a.wav", "audios": []}, "audios: beside audio: give one or the other"),
        ({"audio": data_uri(png())}, "audio: "),
        ({"parts": [{"audio": 3}]}, "parts[0].audio: expected a path"),
        ({"parts": [{"audio": "a.wav"}] * 5}, "parts: 5 audios are more than max_audios, 4"),
        ({"parts": [], "audio": "a.wav"}, "audio: beside parts: give one or the other"),
        ({"audio": data_uri(bytes(300))}, "audio: 300 bytes are more than max_audio_bytes, 299"),
    ],
)
def test_what_is_wrong_with_an_audio(tmp_path: Path, values: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse(tmp_path, Limits(max_audio_bytes=299), id=1, **values)
    assert str(refused.value).startswith(problem)


def test_parts_keep_their_order(tmp_path: Path) -> None:
    picture, film = {"image": data_uri(png(8, 8))}, {"video": [data_uri(png(4, 4))]}
    parts = [{"text": "Is "}, picture, {"text": ""}, film, picture]
    request = parse(tmp_path, id=1, instruction="Find", parts=parts).request
    assert request.parts == ("Is ", Medium.IMAGE, "", Medium.VIDEO, Medium.IMAGE)
    assert (request.instruction, request.text) == ("Find", None)
    assert (len(request.images), len(request.videos)) == (2, 1)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"parts": "a"}, "parts: expected a list, each of it"),
        ({"parts": ["a"]}, "parts: expected a list, each of it"),
        ({"parts": [{"text": 1}]}, "parts: expected a list, each of it"),
        ({"parts": [{"text": "a", "image": "b"}]}, "parts: expected a list, each of it"),
        ({"parts": [{"sound": "a"}]}, "parts: expected a list, each of it"),
        ({"parts": [{"text": "a"}, {"image": "b.png"}]}, "parts[1].image: "),
        ({"parts": [{"video": {"frames": ["b.png"]}}]}, "parts[0].video.frames[0]: "),
        ({"parts": [{"image": "b.png"}] * 99}, "parts: 99 images are more than max_images"),
        ({"parts": [], "text": "a"}, "text: beside parts: give one or the other"),
        ({"parts": [], "prompt": "a"}, "prompt: beside parts: give one or the other"),
    ],
)
def test_parts_that_are_none_are_refused(
    tmp_path: Path, values: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(tmp_path, id=1, **values)
    assert str(caught.value).startswith(problem)


def test_videos_are_lists_of_frames_that_may_say_their_rate(tmp_path: Path) -> None:
    frames = [data_uri(png(8, 8))]
    line = parse(tmp_path, id=1, videos=[frames, {"frames": frames * 2, "fps": 3}])
    assert [Pictures.of(video, "viewed").fps for video in line.request.videos] == [None, 3]
    assert [len(video) for video in line.request.videos] == [1, 2]
    assert line.request.images == ()


@pytest.mark.parametrize(
    ("values", "field", "problem"),
    [
        ({"prompt": "a"}, "id", "every line needs one"),
        ({"id": ""}, "id", "every line needs one"),
        ({"id": 1.5}, "id", "every line needs one"),
        ({"id": "a\0b"}, "id", "NUL"),
        ({"id": "\ud83d"}, "id", "surrogate"),
        ({"id": 1, "image": ["a.png"]}, "image", "unknown key"),
        ({"id": 1, "text": ["a"]}, "text", "expected a string"),
        ({"id": 1, "prompt": 5}, "prompt", "expected a string"),
        ({"id": 1, "adapter": 5}, "adapter", "expected a string"),
        ({"id": 1, "images": "a.png"}, "images", "expected a list"),
        ({"id": 1, "images": [5]}, "images[0]", "expected a path"),
        ({"id": 1, "images": ["missing.png"]}, "images[0]", "No such file"),
        ({"id": 1, "images": ["."]}, "images[0]", "Is a directory"),
        ({"id": 1, "images": ["a\0b"]}, "images[0]", "no path"),
        ({"id": 1, "images": ["\ud83d.png"]}, "images[0]", "no path"),
        ({"id": 1, "images": ["data:image/png"]}, "images[0]", "no data URI"),
        ({"id": 1, "images": ["data:image/png;base64,a"]}, "images[0]", "no base64"),
        ({"id": 1, "images": ["data:image/png;base64,ä"]}, "images[0]", "no base64"),
        ({"id": 1, "images": [data_uri(b"garbage")]}, "images[0]", "no JPEG"),
        ({"id": 1, "images": [data_uri(png()), data_uri(b"")]}, "images[1]", "no JPEG"),
        ({"id": 1, "video": [data_uri(png()), 5]}, "video[1]", "expected a path"),
        ({"id": 1, "video": 5}, "video", "expected a path"),
        ({"id": 1, "videos": "clip.mp4"}, "videos", "expected a list"),
        ({"id": 1, "videos": [[], 5]}, "videos[1]", "expected a path"),
        ({"id": 1, "video": [], "videos": []}, "videos", "beside video"),
        ({"id": 1, "videos": [[]] * 5}, "videos", "5 are more than max_videos, 4"),
        ({"id": 1, "videos": [{"frames": [], "rate": 1}]}, "videos[0].rate", "unknown key"),
        ({"id": 1, "videos": [{"frames": [], "fps": 0}]}, "videos[0].fps", "from 0.001 to 1000"),
        ({"id": 1, "videos": [{"fps": 2}]}, "videos[0].frames", "expected a list"),
        ({"id": 1, "video": "missing.mp4"}, "video", "No such file"),
        ({"id": 1, "video": data_uri(b"garbage", "video/mp4")}, "video", "undecodable"),
    ],
)
def test_bad_value_is_refused_by_its_key(
    tmp_path: Path, values: dict[str, Any], field: str, problem: str
) -> None:
    with pytest.raises(InvalidInputError, match=problem) as caught:
        parse(tmp_path, **values)
    assert caught.value.field == field


@pytest.mark.parametrize(
    "data",
    [b"{", b"[]", b"null", b"\xff\xfe", b'{"id": 1} x', b"[" * 100_000, b'{"a":' * 100_000],
    ids=lambda data: repr(data[:8]),
)
def test_line_that_is_no_json_object_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidInputError) as caught:
        LineReader(tmp_path, Limits(), lambda adapter: 8).parse(data)
    assert caught.value.field == "line"


def test_limits_are_kept_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png())
    limits = Limits(max_images=1, max_video_frames=2)
    with pytest.raises(InvalidInputError, match=r"2 are more than .*1\b"):
        parse(tmp_path, limits, id=1, images=["missing.png"] * 2)
    with pytest.raises(InvalidInputError, match=r"3 are more than .*2\b"):
        parse(tmp_path, limits, id=1, video=["missing.png"] * 3)


@pytest.mark.parametrize("source", ["a.png", data_uri(png())], ids=["path", "data URI"])
def test_limits_hold_for_paths_and_data_uris(tmp_path: Path, source: str) -> None:
    (tmp_path / "a.png").write_bytes(png())
    size = len(png())
    limits = Limits(max_image_bytes=size, max_image_pixels=24)
    assert len(parse(tmp_path, limits, id=1, images=[source]).request.images) == 1
    with pytest.raises(InvalidInputError, match=rf"{size - 1}\b"):
        parse(tmp_path, replace(limits, max_image_bytes=size - 1), id=1, images=[source])
    with pytest.raises(InvalidInputError, match="max_image_pixels, 23"):
        parse(tmp_path, replace(limits, max_image_pixels=23), id=1, images=[source])
