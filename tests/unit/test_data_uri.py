"""Data URIs, with and without what RFC 2397 lets callers leave out or add."""

import pytest

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.data_uri import read_data_uri


@pytest.mark.parametrize("head", ["image/png", "", "image/png;name=a", "text/plain;charset=utf-8"])
def test_bytes_are_read_whatever_the_type(head: str) -> None:
    assert read_data_uri(f"data:{head};base64,AP8=", "input") == b"\0\xff"


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("", "must be base64"),
        ("data:image/png", "must be base64"),
        ("data:image/png,abc", "must be base64"),
        ("file:image/png;base64,AAAA", "must be base64"),
        ("data:image/png;base64,a", "no base64"),
        ("data:image/png;base64,AA AA", "no base64"),
        ("data:image/png;base64,ä", "no base64"),
    ],
)
def test_others_are_refused(uri: str, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem) as refused:
        read_data_uri(uri, "input")
    assert refused.value.field == "input"
