"""What a message or a body holds is counted before it is parsed, and never less than there is."""

import contextlib
import json
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from google.protobuf.message import DecodeError, Message

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.grpc.elements import MessageLimits, check_message
from vlm2vec_service.frontend.http.json_body import CHUNK, check_elements

PICTURE = pb.Part(image=b"\x12\0" * 500)
FRAMES = pb.Part(video=pb.Video(frames=pb.Frames(images=[b"a", b"", b"\x0a"])))


def elements_of(message: Message) -> int:
    """How many fields are set in ``message``, at any depth, an item of a list for one."""
    count = 0
    for field, value in message.ListFields():
        items = list(value) if field.is_repeated else [value]
        if field.name == "token_ids":
            continue
        count += len(items)
        count += sum(elements_of(item) for item in items if isinstance(item, Message))
    return count


def embed(*inputs: pb.Input) -> pb.EmbedRequest:
    request = pb.EmbedRequest(inputs=inputs)
    request.options.model.name = "é" * 300
    request.options.output.dimensions = 300
    return request


MESSAGES = {
    "text": embed(pb.Input(instruction="a", parts=[pb.Part(text="b" * 200)])),
    "a picture that looks like parts": embed(pb.Input(parts=[PICTURE])),
    "frames": embed(pb.Input(parts=[FRAMES] * 3), pb.Input(parts=[PICTURE, FRAMES])),
    "empty parts": embed(pb.Input(parts=[pb.Part()] * 400)),
    "empty inputs": embed(*[pb.Input()] * 400),
    "ranking": pb.RankRequest(query=pb.Input(parts=[FRAMES]), candidates=[pb.Input()] * 20),
    "stream": pb.EmbedStreamRequest(id="1", input=pb.Input(parts=[PICTURE])),
}


def accepted(data: bytes, most: int, kind: Any = pb.EmbedRequest) -> bool:
    try:
        check_message(data, kind.DESCRIPTOR, MessageLimits(most, 10**6))
    except InvalidInputError as error:
        return str(error) != f"request: more elements than max_elements, {most}"
    return True


@pytest.mark.parametrize("name", MESSAGES)
def test_every_field_of_a_message_counts(name: str) -> None:
    message = MESSAGES[name]
    data, count = message.SerializeToString(), elements_of(message)
    assert accepted(data, count, type(message))
    assert not accepted(data, count - 1, type(message))


@pytest.mark.parametrize(
    ("data", "count"),
    [
        (b"\x78\x01" * 50, 50),  # a number that the message does not know
        (b"\x7b\x7c" * 50, 100),  # the start and the end of a group
        (b"\x79" + bytes(8), 1),
        (b"\x7d" + bytes(4) + b"\x78\x01", 2),
        (b"\xf8\xff\xff\xff\x0f\x01" * 3, 3),
        (b"\x12\x64" + b"\x22\x62" + bytes(98), 2 + 98 // 8),  # packed token ids
        (b"\x12\x32" + b"\x20\x01" * 25, 26),  # the same, not packed
    ],
)
def test_what_is_unknown_or_packed_counts(data: bytes, count: int) -> None:
    pb.EmbedRequest.FromString(data)
    assert accepted(data, count)
    assert not accepted(data, count - 1)


def test_no_string_is_longer_than_the_limit() -> None:
    limits = MessageLimits(100, 1000)
    for long in (
        pb.EmbedRequest(inputs=[pb.Input(parts=[pb.Part(text="a" * 1001)])]),
        pb.EmbedRequest(inputs=[pb.Input(prompt="a" * 1001)]),
        pb.EmbedRequest(options=pb.CallOptions(model=pb.ModelRef(alias="a" * 1001))),
    ):
        with pytest.raises(InvalidInputError, match=r"1001 bytes in .*more than 1000"):
            check_message(long.SerializeToString(), long.DESCRIPTOR, limits)
    picture = embed(pb.Input(parts=[pb.Part(image=bytes(9999))]))
    check_message(picture.SerializeToString(), picture.DESCRIPTOR, limits)


def test_malformed_messages_are_left_to_the_parser() -> None:
    """Whatever bytes they are: no other error, no loop, and never less than the parser makes."""
    random = Random(3)
    good = [message.SerializeToString() for message in MESSAGES.values()]
    parsed = 0
    for _ in range(3000):
        data = bytearray(random.choice(good)[: random.randint(0, 900)])
        for _ in range(random.randint(0, 3)):
            if data:
                data[random.randrange(len(data))] = random.randrange(256)
        accepted(bytes(data), 10**6)
        with contextlib.suppress(DecodeError):
            message = pb.EmbedRequest.FromString(bytes(data))
            if count := elements_of(message):
                parsed += 1
                assert not accepted(bytes(data), count - 1)
    assert parsed > 100


def values_of(value: Any) -> int:
    """How many keys and values there are in ``value``."""
    if isinstance(value, dict):
        return 1 + len(value) + sum(map(values_of, value.values()))
    return 1 + sum(map(values_of, value)) if isinstance(value, list) else 1


def bodies() -> Iterator[Any]:
    random = Random(5)
    words = ['"', "\\", ",", "[", "{", ":", "a", "\n", "é", "😀", "data:", "\\\\", '\\"']

    def value(depth: int) -> Any:
        kind = random.choice("tttnld" if depth else "ld")
        if kind == "t":
            return "".join(random.choices(words, k=random.randint(0, 9)))
        if kind == "n":
            return random.choice([0, -1.5, True, None, 10**20])
        items = [value(depth + 1) for _ in range(random.randint(0, 5 if depth < 4 else 0))]
        return items if kind == "l" else {str(i) + str(item): item for i, item in enumerate(items)}

    return (value(0) for _ in range(300))


@pytest.mark.parametrize("ascii", [True, False])
def test_every_key_and_value_of_a_body_counts(ascii: bool) -> None:
    for value in bodies():
        body = json.dumps(value, ensure_ascii=ascii).encode()
        count = values_of(value)
        with pytest.raises(InvalidInputError, match="more keys and values than max_elements") as no:
            check_elements(body, count - 1)
        assert no.value.field == "body"
        containers = body.count(b"[]") + body.count(b"{}")
        check_elements(body, count + containers)  # an empty list may have room for one


def test_what_stands_in_strings_does_not_count_wherever_they_are_cut() -> None:
    for shift in range(6):
        for filling in ('\\"', "\\\\", ",[{:", '\\\\\\"', "é,"):
            text = filling * (CHUNK // 2)
            body = " " * shift + f'["{text}", "{text}"]'
            json.loads(body)
            check_elements(body.encode(), 4)
            with pytest.raises(InvalidInputError):
                check_elements(body.encode(), 2)


@pytest.mark.parametrize("unit", [b"[],", b"{},", b'"",', b'""', b'"a":0,', b"[", b"0,", b'"a"'])
def test_a_body_without_end_is_not_read_to_its_end(unit: bytes) -> None:
    class Watched(bytes):
        read = 0

        def __getitem__(self, key: Any) -> Any:
            Watched.read += 1
            return super().__getitem__(key)

    with pytest.raises(InvalidInputError):
        check_elements(Watched(b"[" + unit * 2_000_000), 10_000)
    assert Watched.read * CHUNK < 200_000
