"""Requests over HTTP that are refused, and the parameter that the error names."""

import gzip
import json
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.e2e.server import Server

GIF = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
LONG = "x" * 257
BAD: list[tuple[dict[str, Any], int, str | None]] = [
    ({}, 400, "input"),
    ({"input": None}, 400, "input"),
    ({"input": "a", "messages": [{"role": "user", "content": "a"}]}, 400, "input"),
    ({"input": []}, 400, "input"),
    ({"input": [[]]}, 400, "input[0]"),
    ({"input": 3}, 400, "input"),
    ({"input": True}, 400, "input"),
    ({"input": [True]}, 400, "input[0]"),
    ({"input": [1, "a"]}, 400, "input"),
    ({"input": [1, -2]}, 400, "input"),
    ({"input": [[1, 2**40]]}, 400, "input[0]"),
    ({"input": [1, 2048]}, 400, "input[1]"),
    ({"input": [[1], [1, 2, 2048]]}, 400, "input[1][2]"),
    ({"input": ["a"] * 2049}, 400, "input"),
    ({"input": ""}, 400, "input"),
    ({"input": "\ud800"}, 400, "input"),
    ({"input": {"words": "a"}}, 400, "input.words"),
    ({"input": {"\ud800": "a"}}, 400, "input.?"),
    ({"input": {"prompt": "a", "text": "b"}}, 400, "input.text"),
    ({"input": {"image_url": "data:image/png"}}, 400, "input.image_url"),
    ({"input": {"image_url": "data:image/png;base64,a"}}, 400, "input.image_url"),
    ({"input": {"image_url": {"href": "x"}}}, 400, "input.image_url.href"),
    ({"input": {"image_url": "data:image/png;base64,AAAA"}}, 400, "input.image_url"),
    ({"input": {"image_url": GIF}}, 400, "input.image_url"),
    ({"input": {"video_url": GIF}}, 400, "input.video_url"),
    ({"input": {"image_url": "http://127.0.0.1/a.png"}}, 400, "input.image_url"),
    ({"input": {"image_url": "file:///etc/passwd"}}, 400, "input.image_url"),
    ({"input": {"content": [{"type": "audio"}]}}, 400, "input.content[0].type"),
    ({"input": {"content": [{"type": "text"}]}}, 400, "input.content[0].text"),
    ({"input": {"content": [{"type": "image_url", "image_url": GIF}] * 17}}, 400,
     "input.content[16].image_url"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "tool", "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": GIF}]}]},
     400, "messages[0].content"),
    ({"input": "a", "dimensions": 0}, 400, "dimensions"),
    ({"input": "a", "dimensions": 129}, 400, "dimensions"),
    ({"input": "a", "dimensions": "8"}, 400, "dimensions"),
    ({"input": "a", "dimensions": 10**30}, 400, "dimensions"),
    ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
    ({"input": GIF, "modality": "pdf"}, 400, "modality"),
    ({"input": "a cat", "modality": "image"}, 400, "input"),
    ({"input": [GIF, 5], "modality": "image"}, 400, "input[1]"),
    ({"input": [GIF, {"text": "a"}], "modality": "video"}, 400, "input[1]"),
    ({"input": {"text": "a"}, "modality": "image"}, 400, "input"),
    ({"input": [], "modality": "image"}, 400, "input"),
    ({"messages": [{"role": "user", "content": "a"}], "modality": "image"}, 400, "modality"),
    ({"input": "a", "priority": "high"}, 400, "priority"),
    ({"input": "a", "user": LONG}, 400, "user"),
    ({"input": "a", "temperature": 1}, 400, "temperature"),
    ({"input": "a", "model": "\ud800"}, 400, "model"),
    ({"input": "a", "model": "qwen@\udfff"}, 400, "model"),
    ({"input": "a", "user": "\ud800"}, 400, "user"),
    ({"input": "a", "instruction": "a\udc00b"}, 400, "instruction"),
    ({"input": "a", "priority": "\ud800"}, 400, "priority"),
    ({"input": "a", "\ud800": 1}, 400, "?"),
    ({"input": {"text": "a", "instruction": "\ud800"}}, 400, "input.instruction"),
    ({"input": {"prompt": "\ud800"}}, 400, "input.prompt"),
    ({"input": {"image_url": {"url": GIF, "detail": "\ud800"}}}, 400, "input.image_url.detail"),
    ({"messages": [{"role": "user", "content": "a", "name": "\ud800"}]}, 400, "messages[0].name"),
    ({"input": "a", "x\ny": 1}, 400, "x\ny"),
    ({"input": "a", "model": 5}, 400, "model"),
    ({"input": "a", "model": LONG}, 400, "model"),
    ({"input": "a", "model": "qwen@"}, 400, "model"),
    ({"input": "a", "model": ""}, 400, "model"),
    ({"input": "a", "model": "gwen"}, 404, None),
    ({"input": "a", "model": "qwen@nothing"}, 404, None),
]  # fmt: skip


@pytest.mark.parametrize(("body", "status", "param"), BAD, ids=lambda item: str(item)[:40])
def test_bad_requests_are_named(
    http: httpx.Client, body: dict[str, Any], status: int, param: str | None
) -> None:
    content = json.dumps({"model": "qwen", **body})  # httpx would not send half a surrogate pair
    headers = {"content-type": "application/json"}
    answer = http.post("/v1/embeddings", content=content, headers=headers)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, param), answer.text


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b'{"input": "\xff\xfe"}', b"[1]", b'"a"', b"null", b"\0", b"[" * 100_000,
     b'{"input": 1' + b"0" * 10_000 + b"}", b'{"input": NaN}'],
    ids=lambda item: str(item[:12]),
)  # fmt: skip
@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_bodies_that_are_no_object_in_json(http: httpx.Client, path: str, content: bytes) -> None:
    headers = {"content-type": "application/json"}
    answer = http.post(path, content=content, headers=headers)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"documents": ["a"]}, "query"),
        ({"query": "a"}, "documents"),
        ({"query": "a", "documents": []}, "documents"),
        ({"query": "a", "documents": "b"}, "documents"),
        ({"query": "a", "documents": [1, 2]}, "documents[0]"),
        ({"query": "a", "documents": ["b", ""]}, "documents[1]"),
        ({"query": "", "documents": ["b"]}, "query"),
        ({"query": "a", "documents": ["b"], "top_n": -1}, "top_n"),
        ({"query": "a", "documents": ["b"] * 2049}, "documents"),
        (
            {"query": "a", "documents": ["b"], "document_instruction": "\ud800"},
            "document_instruction",
        ),
        ({"query": "a", "documents": ["b"], "instruction": "\ud800"}, "instruction"),
        ({"query": "a", "documents": ["b"], "top": 1}, "top"),
        (
            {
                "query": "a",
                "return_documents": True,
                "documents": [{"image_url": {"url": GIF, "detail": 10**30}}],
            },
            "documents[0].image_url.detail",
        ),
    ],
)
def test_bad_rankings_are_named(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    content = json.dumps({"model": "qwen", **body})
    answer = http.post("/v1/rerank", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_unknown_paths_and_methods(server: Server, http: httpx.Client) -> None:
    name = f"/{uuid.uuid4().hex}"
    for path, said in (
        ("/v1/embedding", "/v1/embedding is not there; there is /v1/embed"),
        ("/models", "/v1/models"),
        ("/v1/v1/embeddings", "/v1/embeddings"),
        ("/v1/model", "/v1/models"),
        (name, "/docs lists those that are"),
    ):
        answer = http.post(path)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (404, "path")
        assert (error["type"], error["code"]) == ("not_found_error", "not_found")
        assert said in error["message"]
    for method, path, allowed in (
        ("GET", "/v1/embeddings", "POST"),
        ("POST", "/v1/models", "GET"),
        ("DELETE", "/v1/models/qwen", "GET"),
    ):
        answer = http.request(method, path)
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (405, "method")
        assert error["message"] == f"method: {path} takes {allowed}, not {method}"
        assert answer.headers["allow"] == allowed
    # What callers choose never becomes a label.
    assert name not in server.metrics_text()


def zipped(body: Any) -> bytes:
    return gzip.compress(json.dumps({"model": "qwen", **body}).encode())


def test_bodies_are_inflated(http: httpx.Client) -> None:
    headers = {"content-type": "application/json", "content-encoding": "gzip"}
    for encoding in ("gzip", "GZIP", "x-gzip"):
        headers["content-encoding"] = encoding
        content = zipped({"input": ["a cat"] * 3})
        answer = http.post("/v1/embeddings", content=content, headers=headers)
        assert len(answer.json()["data"]) == 3
    large = zipped({"input": "a cat", "x": "y" * 3_000_000})  # in pieces, whichever they are

    def chunks() -> Iterator[bytes]:
        yield from (large[start : start + 1000] for start in range(0, len(large), 1000))

    for whole_or_not in (large, chunks()):
        answer = http.post("/v1/embeddings", content=whole_or_not, headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "x")


@pytest.mark.parametrize(
    ("encoding", "content", "status", "param", "said"),
    [
        ("br", b"{}", 415, "content-encoding", "'br' is unknown; send gzip"),
        ("gzip, gzip", b"{}", 415, "content-encoding", "'gzip, gzip' is unknown"),
        ("gzip", b'{"input": "a"}', 400, "body", "no gzip"),
        ("gzip", b"", 400, "body", "ends too early"),
        ("gzip", zipped({"input": "a"})[:-9], 400, "body", "ends too early"),
        ("gzip", zipped({"input": "a"}) + b"more", 400, "body", "behind the end"),
        ("gzip", gzip.compress(bytes(67_108_865)), 413, "body", "http_max_body_bytes, 67108864"),
    ],
    ids=lambda item: str(item)[:12],
)
def test_what_cannot_be_inflated_is_refused(
    http: httpx.Client, encoding: str, content: bytes, status: int, param: str, said: str
) -> None:
    headers = {"content-type": "application/json", "content-encoding": encoding}
    answer = http.post("/v1/embeddings", content=content, headers=headers)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param)
    assert said in error["message"]
    assert (answer.headers.get("accept-encoding") == "gzip") is (status == 415)


def test_too_large_a_body_is_not_read(http: httpx.Client) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(65):
            yield b" " * 1_048_576

    # By its length, and by what comes. The connection is closed, maybe before all is sent.
    for content in (b" " * 67_108_865, chunks()):
        try:
            answer = http.post("/v1/embeddings", content=content)
        except httpx.TransportError:
            continue
        assert answer.status_code == 413
        assert "http_max_body_bytes" in answer.json()["error"]["message"]
    assert http.get("/healthz").status_code == 200
