"""What the OpenAPI page says of inputs is what the server accepts, and errors name the place."""

import copy
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.bodies import EmbeddingsBody, RerankBody
from vlm2vec_service.frontend.http.input_shapes import DOCUMENTS
from vlm2vec_service.frontend.http.inputs import InputReader, Task
from vlm2vec_service.settings import Limits

STRINGS = ["", "a", "https://example.com/a.png", "data:image/png;base64,AAAA", "data:,"]
VALUES = ["a", 0, -1, 2**32, 1.5, True, None, [], ["a"], [7], {}, {"url": "a"}, {"type": "text"}]
KEYS = ["text", "type", "url", "detail", "role", "name", "content", "instruction", "other"]
WORDS = [
    "text",
    "image_url",
    "audio_url",
    "input_audio",
    "user",
    "system",
    "developer",
    "assistant",
    "tool",
]

Read = Callable[[InputReader, Any], object]
FIELDS: dict[str, tuple[type[EmbeddingsBody | RerankBody], Read]] = {
    "input": (EmbeddingsBody, lambda reader, value: reader.inputs(value, "input", Task())),
    "messages": (EmbeddingsBody, lambda reader, value: reader.chat(value, Task())),
    "query": (RerankBody, lambda reader, value: reader.one(value, "query", Task())),
    "documents": (
        RerankBody,
        lambda reader, value: reader.many(value, "documents", Task(), DOCUMENTS),
    ),
}


def refusal(field: str, value: Any) -> str:
    """The place that the server finds fault with; empty where it accepts the shape."""
    reader = InputReader(Limits(max_images=1000, max_videos=1000, max_audios=1000), max_inputs=1000)
    try:
        FIELDS[field][1](reader, value)
    except InvalidInputError as error:
        # What a string holds is no matter of its shape.
        about_content = ("base64", "embedded as text")
        return "" if any(words in error.problem for words in about_content) else error.field
    return ""


def example(schema: dict[str, Any], random: Random) -> Any:
    """A value that fits ``schema``, of the keywords that our schemas have."""
    if "anyOf" in schema:
        return example(random.choice(schema["anyOf"]), random)
    if "enum" in schema:
        return random.choice(schema["enum"])
    kind = schema.get("type")
    if kind == "object":
        required = schema.get("required", [])
        return {
            key: example(value, random)
            for key, value in schema["properties"].items()
            if key in required or random.random() < 0.4
        }
    if kind == "array":
        count = random.randint(schema.get("minItems", 0), 3)
        return [example(schema["items"], random) for _ in range(count)]
    if kind == "integer":
        return random.choice([schema["minimum"], schema["maximum"], 7])
    return None if kind == "null" else random.choice(STRINGS)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Each container within ``value`` with each index or key that it has."""
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from places(value[key])


def changed(value: Any, random: Random) -> Any:
    """A copy of ``value`` with a change in one place, which may or may not spoil it."""
    holder = [copy.deepcopy(value)]
    container, key = random.choice(list(places(holder)))
    kind = random.choice(["replace", "word", "remove", "add"])
    if kind == "replace":
        container[key] = copy.deepcopy(random.choice(VALUES))
    elif kind == "word":
        container[key] = random.choice(WORDS)
    elif kind == "remove" and container is not holder:
        del container[key]
    elif isinstance(container[key], dict):
        container[key][random.choice(KEYS)] = copy.deepcopy(random.choice(VALUES))
    elif isinstance(container[key], list):
        container[key].append(copy.deepcopy(random.choice(VALUES)))
    return holder[0]


@pytest.mark.parametrize("field", FIELDS)
def test_the_page_and_the_server_agree(field: str) -> None:
    schema = FIELDS[field][0].model_json_schema()["properties"][field]
    validator = Draft202012Validator(schema)
    random, spoilt = Random(7), 0
    for _ in range(500):
        value = example(schema, random)
        if value is None:  # the same as a field that is not there
            continue
        assert not refusal(field, value), value
        for _ in range(random.randint(1, 2)):
            value = changed(value, random)
        if value is not None:
            assert validator.is_valid(value) == (not refusal(field, value)), value
            spoilt += not validator.is_valid(value)
    assert 50 < spoilt < 450


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("input", [], "input"),
        ("input", 5, "input"),
        ("input", ["a", None], "input[1]"),
        ("input", [7, "a"], "input"),
        ("input", [[7], [True]], "input[1]"),
        ("input", [[7], []], "input[1]"),
        ("input", [2**32], "input"),
        ("input", {"words": "a"}, "input.words"),
        ("input", {"text": ["a"]}, "input.text"),
        ("input", {"text": "\ud800"}, "input.text"),
        ("input", {"image_url": {"href": "a"}}, "input.image_url.href"),
        ("input", {"image_url": {"url": None}}, "input.image_url.url"),
        ("input", {"image_url": ["a"]}, "input.image_url"),
        ("input", {"input_audio": "AAAA"}, "input.input_audio"),
        ("input", {"input_audio": {"format": "wav"}}, "input.input_audio.data"),
        ("input", {"content": [{"type": "input_audio", "input_audio": {"url": "a"}}]},
         "input.content[0].input_audio.url"),
        ("input", {"content": {"type": "text"}}, "input.content"),
        ("input", {"content": ["a"]}, "input.content[0].type"),
        ("input", {"content": [{"type": ["text"]}]}, "input.content[0].type"),
        ("input", {"content": [{"type": "text", "text": None}]}, "input.content[0].text"),
        ("input", {"content": [{"type": "text", "text": "a", "url": "b"}]}, "input.content[0].url"),
        ("messages", "a", "messages"),
        ("messages", [], "messages"),
        ("messages", ["a"], "messages[0].role"),
        ("messages", [{"role": "user"}], "messages[0].content"),
        ("messages", [{"role": "user", "content": 5}], "messages[0].content"),
        ("messages", [{"role": "user", "content": "a", "id": 1}], "messages[0].id"),
        ("messages", [{"role": "system", "content": [{"type": "image_url", "image_url": "a"}]}],
         "messages[0].content"),
        ("query", ["a"], "query"),
        ("query", None, "query"),
        ("documents", "a", "documents"),
        ("documents", [], "documents"),
        ("documents", [7], "documents[0]"),
    ],
)  # fmt: skip
def test_errors_name_the_place(field: str, value: Any, place: str) -> None:
    assert refusal(field, value) == place


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (
            {"words": "a"},
            "known are instruction, prompt, text, image_url, video_url, audio_url, input_audio",
        ),
        (
            {"content": [{"type": "audio"}]},
            "expected text, image_url, video_url, audio_url or input_audio",
        ),
        (
            {"input_audio": {"data": "AAAA", "format": "pcm16"}},
            "expected wav, mp3, flac, ogg, opus",
        ),
        ({"video_url": "data:video/jpeg;fps=0;base64,AAAA"}, "fps=0: expected a number from 0.001"),
        ({"video_url": "data:video/jpeg;fps=two;base64,AAAA"}, "fps=two: expected a number"),
        ({"video_url": "data:video/mp4;fps=2;base64,AAAA"}, "fps is for frames: data:video/jpeg"),
        ({"image_url": "data:image/png;fps=2;base64,AAAA"}, "fps is for frames"),
        (
            {"content": [{"type": "audio_url", "audio_url": "data:,a"}] * 5},
            "more than max_audios, 4",
        ),
        (
            {"content": [{"type": "video_url", "video_url": "data:,a"}] * 5},
            "more than max_videos, 4",
        ),
        ({"content": [{"type": "text", "url": "a"}]}, "known are type, text"),
        (5, "expected a string, token ids or an object"),
        (["a"] * 3, "3 given; 1 to max_inputs, 2, are accepted"),
    ],
)
def test_errors_say_what_is_accepted(value: Any, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        InputReader(Limits(), max_inputs=2).inputs(value, "input", Task())
    with pytest.raises(InvalidInputError, match="expected system, developer, user or assistant"):
        InputReader(Limits(), max_inputs=2).chat([{"role": "tool", "content": "a"}], Task())
