"""Bodies are read as Python's own parser reads them, data URIs or not, or refused with a reason."""

import base64
import json
from random import Random
from typing import Any

import pytest

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.http.input_shapes import TEXT
from vlm2vec_service.frontend.http.inputs import InputReader, Task
from vlm2vec_service.frontend.http.json_body import LONG_URI, cut_out, read_json
from vlm2vec_service.frontend.parsing import SMALL
from vlm2vec_service.settings import Limits

PADDING = " " * SMALL
"""Makes a body a large one."""


def read(body: bytes | str, max_elements: int = 1000, max_text_bytes: int = 10**6) -> Any:
    return read_json(
        body if isinstance(body, bytes) else body.encode(), max_elements, max_text_bytes
    )


def uri(number: int, length: int = LONG_URI) -> str:
    data = base64.b64encode(Random(number).randbytes(length)).decode()
    return f"data:image/png;base64,{data}"


@pytest.mark.parametrize("ascii", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        {"input": uri(1)},
        [uri(1), "NaN", uri(2), {"a": uri(3), "b": [uri(4), uri(5)]}],
        {"text": "data: é 😀 " + "x" * LONG_URI, "other": uri(1)},
        {"text": 'data: he said "data:' + "x" * LONG_URI, "other": uri(1)},
        {"text": "data:\n" + "x" * LONG_URI, "slash": "data:\\" + "x" * LONG_URI, "url": uri(2)},
        {"text": '\\"data:' + uri(1) + "\\", "data:": ["data:", uri(2, 10), uri(2)]},
        [["data:" + "," * LONG_URI] * 3, uri(7, 10**6)],
        [uri(1).replace("data:", "DATA:"), uri(2), uri(3).replace("data:", "Data:"), uri(4)],
        ["data:;base64," + base64.encodebytes(bytes(LONG_URI)).decode(), uri(1)],
        ["data:;base64,\r\n" + "A\r\n" * LONG_URI, "data:\\n" + "A" * LONG_URI],
    ],
    ids=lambda value: str(value)[:20],
)  # fmt: skip
def test_data_uris_come_back_in_their_places(value: Any, ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii) + PADDING
    assert read(body) == value
    assert read(body.replace("/", "\\/")) == value
    rest, uris = cut_out(body.encode())
    assert uris
    written = [json.dumps(found)[1:-1] for found in uris]
    assert all(found in json.dumps(value) for found in written)
    assert len(rest) + sum(len(found) - 1 for found in written) == len(body.encode())


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ('{"a": NaN}', "NaN is not a number"),
        (f'{{"a": NaN, "b": "{uri(1)}"}}', "NaN is not a number"),
        (f'{{"a": "{uri(1)}", "b": -Infinity}}', "-Infinity is not a number"),
        (f'["x"{uri(1)}","]', "without its quotes|Expecting"),
        (f'["x""{uri(1)}"]', "Expecting"),
        (f'{{"a": "{uri(1)}', "Unterminated string"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "the key 'c' is there twice"),
        ('{"a": 1%s}' % ("0" * 5000), "a number of 5001 characters"),
        ('{"a": 0.%s}' % ("1" * 5000), "a number of 5002 characters"),
        ("[" * 100_000, "more keys and values than max_elements, 1000"),
        ("[" * 900 * 100, "more keys and values"),
        ('["a\n"]', "Invalid control character"),
        ("", "Expecting value"),
        ('{"a": 1} {', "Extra data"),
    ],
    ids=lambda item: str(item)[:20],
)
def test_others_are_told_what_is_wrong(body: str, problem: str) -> None:
    for padding in ("", PADDING):
        if padding or "more keys" not in problem:
            with pytest.raises(InvalidInputError, match=problem) as refused:
                read(body + padding)
            assert refused.value.field == "body"


def test_a_body_is_utf_8_and_not_too_deep() -> None:
    for padding in ("", PADDING):
        for codec in ("utf-16", "utf-16-le", "utf-32", "latin-1"):
            with pytest.raises(InvalidInputError, match="no JSON"):
                read(f'{{"a": "é∀ {padding}"}}'.encode(codec, "replace"))
        with pytest.raises(InvalidInputError, match="nested too deeply"):
            read("[" * 2000 + padding, max_elements=10_000)
    half = read('{"a": "\\ud800"}')["a"]
    with pytest.raises(InvalidInputError, match="no valid Unicode"):
        TEXT.check(half, "a")


def test_only_data_uris_may_be_longer_than_the_texts() -> None:
    long = "a" * 2 * SMALL
    assert read(json.dumps({"a": uri(1, 10 * SMALL)}), max_text_bytes=SMALL)
    for value in (long, "data:é" + long, "data:\t" + long):
        with pytest.raises(InvalidInputError, match=f"beside data URIs; {SMALL} are accepted"):
            read(json.dumps({"a": value}), max_text_bytes=SMALL)


def test_frames_are_counted_before_they_are_split() -> None:
    frame = base64.b64encode(b"abc").decode()

    def frames(count: int) -> Any:
        url = "data:video/jpeg;base64," + ",".join([frame] * count)
        (message,) = InputReader(Limits(), 1).inputs({"video_url": url}, "input", Task())
        return message.parts[0].video.frames.images

    assert list(frames(64)) == [b"abc"] * 64
    for count in (65, 10_000_000):
        with pytest.raises(InvalidInputError, match="more frames than max_video_frames, 64"):
            frames(count)
