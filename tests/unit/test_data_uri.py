"""Data URIs, with and without what RFC 2397 and RFC 4648 let callers leave out or add."""

import base64
from random import Random
from urllib.parse import quote

import pytest

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.data_uri import PIECE, DataUri, read_base64
from vlm2vec_service.settings import Limits

LIMITS = Limits(max_image_bytes=1000)
LENGTHS = (0, 1, 2, 3, 57, PIECE * 3 // 4 - 1, PIECE * 3 // 4, PIECE * 3 // 4 + 1, 2 * PIECE + 5)


def read(uri: str, limits: Limits = LIMITS) -> bytes:
    return DataUri.parse(uri, "input").read("input", limits, "max_image_bytes")


def refusal(uri: str) -> str:
    with pytest.raises(InvalidInputError) as refused:
        read(uri)
    assert refused.value.field == "input"
    return refused.value.problem


@pytest.mark.parametrize(
    "uri",
    [
        "data:image/png;base64,AP9+", "data:;base64,AP9+", "DATA:IMAGE/PNG;BASE64,AP9+",
        "Data:image/png;name=a.png;base64,AP9+", "data:text/plain;charset=utf-8;base64,AP9+",
        "data:image/png; base64 ,AP9+", "data:image/png;base64,AP9%2B", "data:;base64,%41P9%2b",
        "data:image/png;base64, AP\r\n9+\t\n", "data:image/png;base64,AP9-",
        "data:image/png,%00%FF~", "data:,%00%ff%7e", "data:image/png;name=a,%00%ff~",
    ],
)  # fmt: skip
def test_all_ways_to_write_three_bytes(uri: str) -> None:
    assert read(uri) == b"\0\xff\x7e"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("", "no data URI"),
        ("data:image/png", "no data URI"),
        ("data" + "x" * 5000 + ",", "no data URI"),
        ("data:" + "x" * 5000 + ",", "no data URI"),
        ("file:image/png;base64,AAAA", "no data URI"),
        ("data:image/png;base64,a", "no base64"),
        ("data:image/png;base64,AAAA*AAA", "no base64"),
        ("data:image/png;base64,ä", "no base64"),
        ("data:image/png;base64,%zz", "no base64"),
        ("data:image/png;base64,AA=A", "padding before the end"),
        ("data:image/png;base64,=AAA", "padding before the end"),
        ("data:image/png;base64,AA===", "too much padding"),
        ("data:image/png;base64,AAAA=", "too much padding"),
        ("data:image/png,ä", "no data URI: its bytes are ASCII or %XX"),
    ],
)
def test_others_are_refused(uri: str, problem: str) -> None:
    assert problem in refusal(uri)


@pytest.mark.parametrize("length", LENGTHS)
def test_it_is_decoded_in_pieces_as_it_would_be_at_once(length: int) -> None:
    data = Random(length).randbytes(length)
    encoded = base64.b64encode(data).decode()
    limits = Limits(max_image_bytes=max(length, 1))
    for written in (
        encoded,
        encoded.rstrip("="),
        base64.urlsafe_b64encode(data).decode(),
        base64.encodebytes(data).decode(),
        quote(encoded),
        quote(base64.encodebytes(data).decode()),
        " " * (PIECE - 2) + quote(encoded),
    ):
        assert read_base64(written, "input", limits, "max_image_bytes") == data
    assert read("data:," + quote(data), limits) == data
    if length > 2:
        for bad in (encoded + "=", "=" + encoded, encoded[:-2] + "*="):
            with pytest.raises(InvalidInputError, match="no base64"):
                read_base64(bad, "input", Limits(), "max_image_bytes")


def test_what_is_too_large_is_not_decoded() -> None:
    """Whatever it is: this is no base64, and that no data URI."""
    for uri in ("data:;base64," + "*" * 1400, "data:," + "ä" * 1001):
        assert "bytes are more than max_image_bytes, 1000" in refusal(uri)
    assert len(read("data:," + "%00" * 1000)) == 1000
    assert len(read("data:;base64," + "%41" * 1332 + "\n" * 5000)) == 999
