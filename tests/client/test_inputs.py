"""What is taken as an input, and what a caller hears who gives anything else."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vlm2vec
from tests.client.server import Service
from tests.client.vectors import DIMENSION, text
from vlm2vec.v1 import embedding_pb2 as pb

PIXELS = np.random.default_rng(5).integers(0, 256, (6, 4, 3), dtype=np.uint8)
TAKEN = "an input is a text"


@pytest.mark.parametrize("picture", [PIXELS, Image.fromarray(PIXELS)], ids=["array", "PIL"])
def test_pixels_are_one_input(client: Any, service: Service, picture: Any) -> None:
    assert client.embed(picture).shape == (DIMENSION,)
    assert client.embed([picture, picture]).shape == (2, DIMENSION)
    assert len(dict(client.stream([picture], on_error="yield"))) == 1
    ranking = client.rank(picture, [picture, "words"])
    assert ranking.candidates[ranking.candidates[0].index].candidate is not None
    sent = service.calls[0][0].inputs[0]
    assert [part.WhichOneof("part") for part in sent.parts] == ["image"]


def test_an_array_of_pictures_is_a_list_of_them(client: Any, service: Service) -> None:
    assert client.embed(np.stack([PIXELS, PIXELS, PIXELS])).shape == (3, DIMENSION)
    assert client.embed(np.array(["a", "b"])).shape == (2, DIMENSION)
    client.embed(vlm2vec.Input(video=np.stack([PIXELS, PIXELS])))
    assert len(service.calls[-1][0].inputs[0].parts[0].video.frames.images) == 2


def test_rows(client: Any, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    Image.fromarray(PIXELS).save(path)
    data = path.read_bytes()
    picture = pb.Part(image=data)
    client.embed(
        [
            {"id": 7, "text": "a cat"},
            {"image": str(path), "text": "words", "instruction": "own"},
            {"images": [path, data]},
            {"image": {"bytes": data, "path": None}, "text": None},
            {"image": {"bytes": None, "path": str(path)}, "text": float("nan")},
            {"prompt": "<|image_pad|>", "image": path},
            {"video": [path, path]},
            {"video": {"frames": [path, data], "fps": 2}},
            {"videos": [path, [data, data], {"frames": [data, data], "fps": 2}]},
            {"audio": str(path), "text": "heard"},
            {"audios": [data, {"bytes": data, "path": None}]},
            {"audio": {"array": np.zeros(3, np.float32), "sampling_rate": 8000, "path": None}},
            {"parts": ["see ", {"image": str(path)}, {"text": "hear ", "audio": None}]},
        ],
        instruction="given",
    )
    video = pb.Part(video=pb.Video(frames=pb.Frames(images=[data, data])))
    timed = pb.Part(video=pb.Video(frames=pb.Frames(images=[data, data], fps=2)))
    film = pb.Part(video=pb.Video(file=data))
    audio = pb.Part(audio=pb.Audio(file=data))
    samples = pb.Samples(data=bytes(12), format=pb.SAMPLE_FORMAT_FLOAT32, rate=8000, channels=1)
    assert list(service.calls[0][0].inputs) == [
        text("a cat", "given"),
        pb.Input(instruction="own", parts=[picture, pb.Part(text="words")]),
        pb.Input(instruction="given", parts=[picture, picture]),
        pb.Input(instruction="given", parts=[picture]),
        pb.Input(instruction="given", parts=[picture]),
        pb.Input(prompt="<|image_pad|>", parts=[picture]),
        pb.Input(instruction="given", parts=[video]),
        pb.Input(instruction="given", parts=[timed]),
        pb.Input(instruction="given", parts=[film, video, timed]),
        pb.Input(instruction="given", parts=[audio, pb.Part(text="heard")]),
        pb.Input(instruction="given", parts=[audio, audio]),
        pb.Input(instruction="given", parts=[pb.Part(audio=pb.Audio(samples=samples))]),
        pb.Input(instruction="given", parts=[pb.Part(text="see "), picture, pb.Part(text="hear ")]),
    ]
    assert client.embed({"text": "a cat"}).shape == (DIMENSION,)


def test_parts_travel_in_their_order(client: Any, service: Service, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"bytes of a file")
    samples = vlm2vec.Samples(np.zeros(3, np.float32), 8000)
    given: list[Any] = [
        "look at ",
        path,
        {"video": vlm2vec.Frames([b"frame"], fps=2)},
        vlm2vec.Frames([b"frame"], fps=2),
        {"text": "https://example.com/cat.jpg"},
        {"image": b"bytes of a file"},
        {"audio": str(path)},
        samples,
        " and ",
        {"audio": samples},
    ]
    client.embed(vlm2vec.Input(parts=given, instruction="Find it."))
    dict(client.stream([("one", vlm2vec.Input(parts=given, instruction="Find it."))]))
    sent = service.calls[0][0].inputs[0]
    assert sent == service.stream_requests[0].input
    assert sent.instruction == "Find it."
    one_by_one = [
        vlm2vec.Input(text="look at "),
        vlm2vec.Input(images=[path]),
        *[vlm2vec.Input(video=vlm2vec.Frames([b"frame"], fps=2))] * 2,
        vlm2vec.Input(text="https://example.com/cat.jpg"),
        vlm2vec.Input(images=[path]),
        vlm2vec.Input(audios=[path]),
        vlm2vec.Input(audios=[samples]),
        vlm2vec.Input(text=" and "),
        vlm2vec.Input(audios=[samples]),
    ]
    client.embed(one_by_one)
    assert list(sent.parts) == [one.parts[0] for one in service.calls[1][0].inputs]


@pytest.mark.parametrize(
    "beside",
    [{"text": "a"}, {"prompt": "a"}, {"video": b""}, {"images": [b""]}, {"audios": [b""]}],
    ids=lambda given: next(iter(given)),
)
def test_parts_are_all_of_an_input(beside: Any) -> None:
    with pytest.raises(ValueError, match="give its texts and media as parts"):
        vlm2vec.Input(parts=["a"], **beside)


def test_a_file_that_is_missing_is_named_by_its_part(client: Any) -> None:
    given = vlm2vec.Input(parts=["a", {"image": "/missing/cat.jpg"}])
    with pytest.raises(vlm2vec.InvalidInput, match=r"^parts\[1\].image: cannot read") as caught:
        client.embed(["fine", given])
    assert (caught.value.field, caught.value.id) == ("parts[1].image", 1)
    with pytest.raises(vlm2vec.InvalidInput, match=r'^parts\[0\]: .* write {"image": ...}'):
        client.embed(vlm2vec.Input(parts=["https://example.com/cat.jpg"]))


WRONG: dict[str, tuple[Any, str]] = {
    "int": (3, rf"inputs\[0\] is int: {TAKEN}"),
    "None": (None, rf"inputs\[0\] is NoneType: {TAKEN}"),
    "bytes": (b"\x89PNG", r"inputs\[0\] is bytes: .*Input\(images=\[\.\.\.\]\)"),
    "bytearray": (bytearray(3), rf"inputs\[0\] is bytearray: {TAKEN}"),
    "object": (object(), rf"inputs\[0\] is object: {TAKEN}"),
    "int in a list": (["a", 3], rf"inputs\[1\] is int: {TAKEN}"),
    "bytes in a list": (["a", b"b"], rf"inputs\[1\] is bytes: {TAKEN}"),
    "a list in a list": (["a", ["b"]], rf"inputs\[1\] is list: {TAKEN}"),
    "a pair": ([("id", "text")], rf"inputs\[0\] is tuple: {TAKEN}"),
    "numbers": (np.arange(3), rf"inputs\[0\] is int64: {TAKEN}"),
    "a dict of texts": ({"a cat": 1}, r"inputs\[0\] has the key a cat: a row has id, text, "),
    "a row too much": ([{"text": "a", "url": "b"}], r"inputs\[0\] has the key url: a row has id, "),
    "a set": ({"a", "b"}, "a set has no order"),
    "text in a row": ([{"text": 3}], "text is int, not str"),
    "text": (lambda: vlm2vec.Input(text=b"a"), "text is bytes, not str"),  # type: ignore[arg-type]
    "prompt": (lambda: vlm2vec.Input(prompt=3), "prompt is int, not str"),  # type: ignore[arg-type]
    "one image": (lambda: vlm2vec.Input(images="a.jpg"), r"images=\[image\]"),
    "image": (lambda: vlm2vec.Input(images=[3]), r"images\[0\] is int, .* encoded file \(bytes\)"),  # type: ignore[list-item]
    "image in a row": ([{"image": 3}], r"images\[0\] is int, which is none of: the path"),
    "video": (lambda: vlm2vec.Input(video=3), "video is int, which is none of: the path"),  # type: ignore[arg-type]
    "one video": (lambda: vlm2vec.Input(videos="a.mp4"), r"videos=\[video\]"),
    "one audio": (lambda: vlm2vec.Input(audios="a.wav"), r"audios=\[audio\]"),
    "an array as audios": (lambda: vlm2vec.Input(audios=np.zeros(9)), r"audios=\[audio\]"),  # type: ignore[arg-type]
    "audio": (lambda: vlm2vec.Input(audios=[3]), r"audios\[0\] is int, .* vlm2vec.Samples"),  # type: ignore[list-item]
    "audio in a row": ([{"audio": np.zeros(9)}], r"audios\[0\] is ndarray, which is none of"),
    "frames": (lambda: vlm2vec.Input(video=vlm2vec.Frames(3)), "video is int, .* fps=2"),  # type: ignore[arg-type]
    "one part": (lambda: vlm2vec.Input(parts="a"), r"parts=\[part\]"),
    "bytes as a part": ([{"parts": [b"a"]}], r'parts\[0\] is bytes, .* {"image": ...}'),
    "two kinds in a part": (
        [{"parts": [{"text": "a", "image": "b"}]}],
        r"parts\[0\] is dict, which",
    ),
    "an unknown kind": ([{"parts": [{"picture": "b"}]}], r"parts\[0\] is dict, which is none of"),
    "a number as text": (
        lambda: vlm2vec.Input(parts=[{"text": 3}]),
        r"parts\[0\].text is int, not str",
    ),
    "a number as image": (
        [{"parts": [{"image": 3}]}],
        r"parts\[0\].image is int, which is none of",
    ),
    "a picture as video": (lambda: vlm2vec.Input(video=PIXELS), "video is ndarray, .* a list of"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_types_are_told_what_is_taken(client: Any, service: Service, name: str) -> None:
    given, problem = WRONG[name]
    with pytest.raises(TypeError, match=problem):
        client.embed(given() if callable(given) else given)
    assert not service.calls


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda client: list(client.stream("abc")), "expected inputs, got one str: put it in a"),
        (lambda client: list(client.stream({1: "a"})), r"got one dict: give its items\(\)"),
        (lambda client: list(client.stream([("a", "b", "c")])), "an id and an input, not 3"),
        (lambda client: list(client.stream([("a", 3)])), "the item 'a' is int: an input is"),
        (lambda client: list(client.stream([(1.5, "a")])), "an id is int or str, not float"),
        (lambda client: client.rank("a", "bcd"), "expected inputs, got one str"),
        (lambda client: client.rank("a", {"b": "c"}), "expected inputs, got one dict"),
        (lambda client: client.rank(3, ["b"]), "query is int: an input is"),
        (lambda client: client.rank("a", ["b", 3]), r"candidates\[1\] is int: an input is"),
        (lambda client: client.embed("a", version=3), "version is int, not str: write version='3'"),
        (lambda client: client.embed("a", model=None), "model is NoneType, not str"),
        (lambda client: client.embed("a", routing_key=7), "routing_key is int, not str"),
        (lambda client: client.embed("a", instruction=7), "instruction is int, not str"),
        (lambda client: client.embed("a", timeout="5"), "timeout is str, not a number of seconds"),
        (lambda client: list(client.stream(["a"], window=1.5)), "window is float, not a whole"),
    ],
)
def test_other_arguments_of_a_wrong_type(client: Any, call: Any, problem: str) -> None:
    with pytest.raises(TypeError, match=problem):
        call(client)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"dimensions": -1}, "dimensions is -1, not a whole number"),
        ({"dimensions": 1.5}, "dimensions is 1.5, not a whole number"),
        ({"truncate": "9"}, "truncate is '9', neither"),
        ({"model": "v2@canary", "version": "3"}, "at most one of .* NAME@WHICH"),
    ],
)
def test_options_that_make_no_sense(client: Any, options: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        client.embed("a", **options)


@pytest.mark.parametrize("top_k", [-1, 1.5, "3"])
def test_top_k(client: Any, top_k: Any) -> None:
    with pytest.raises(ValueError, match=r"top_k is .*, not a whole number from 0"):
        client.rank("a", ["b"], top_k=top_k)


@pytest.mark.parametrize(
    "words",
    [
        "data:image/png;base64,iVBORw0KGgo=",
        " Data:video/mp4;base64,AAAA",
        "https://example.com/cat.JPG",
        "http://example.com/a.mp4?size=3",
        "data:audio/wav;base64,UklGRg==",
        "https://example.com/rain.flac",
    ],
)
def test_media_that_are_written_as_text(client: Any, service: Service, words: str) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match=r"inputs\[1\]: .*Input\(images=\[") as caught:
        client.embed(["fine", words])
    assert caught.value.id == 1
    assert not service.calls
    client.embed([vlm2vec.Input(text=words), {"text": words}, f"see {words}"])
    sent = [message.parts[0].text for message in service.calls[0][0].inputs]
    assert sent == [words, words, f"see {words}"]


@pytest.mark.parametrize("given", ["\ud800", vlm2vec.Input(prompt="a\udfff"), {"text": "\ud800"}])
def test_half_a_surrogate_pair_is_an_error_of_its_item_alone(client: Any, given: Any) -> None:
    with pytest.raises(vlm2vec.InvalidInput, match="half a surrogate pair") as caught:
        client.embed(["a", given])
    assert caught.value.id == 1
    results = dict(client.stream(["a", given], on_error="yield"))
    assert isinstance(results[1], vlm2vec.InvalidInput)
    assert results[0].shape == (DIMENSION,)
