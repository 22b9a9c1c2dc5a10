"""HTTP as callers meet it: OpenAI's own client and those built on its API, golden vectors, bad
requests, and a fuzzer."""

import base64
import json
import socket
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from PIL import Image

from tests.conftest import CASES, case_request
from tests.e2e.cases import ARCHITECTURES, Golden, cosine, options, png, unpack
from tests.e2e.cases import text as text_input
from tests.e2e.server import Server, wait_until
from vlm2vec.v1 import embedding_pb2 as pb

WORDS = ["a cat", "two boats on a lake", "a cat"]


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"http://{server.http_address}", timeout=60) as client:
        yield client


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{server.http_address}/v1", api_key="any", max_retries=0)


def over_grpc(server: Server, *words: str, **values: Any) -> list[Any]:
    request = pb.EmbedRequest(options=options(**values), inputs=map(text_input, words))
    return [unpack(item.vector) for item in server.embedding.Embed(request).embeddings]


def data_uri(picture: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(png(picture)).decode()


def case_item(case: dict[str, Any]) -> dict[str, Any]:
    """A parity case as an input, its pictures as data URIs."""
    request = case_request(case)
    parts = [
        {"type": "image_url", "image_url": {"url": data_uri(picture)}} for picture in request.images
    ]
    if request.video:
        frames = []
        for picture in request.video:
            frames.append(base64.b64encode(png(picture)).decode())
        url = "data:video/jpeg;base64," + ",".join(frames)
        parts.append({"type": "video_url", "video_url": {"url": url}})
    return {"prompt": request.prompt, "content": parts}


def embed(http: httpx.Client, **body: Any) -> Any:
    answer = http.post("/v1/embeddings", json={"model": "qwen", **body})
    assert answer.status_code == 200, answer.text
    return answer.json()


def vectors(answer: Any) -> list[Any]:
    return [np.array(item["embedding"], np.float32) for item in answer["data"]]


# The clients that people have


@pytest.mark.parametrize("encoding", ["float", "base64", openai.omit])
def test_openai_client_gets_the_vectors_of_grpc(
    server: Server, client: openai.OpenAI, encoding: Any
) -> None:
    answer = client.embeddings.create(model="qwen", input=WORDS, encoding_format=encoding)
    assert [item.index for item in answer.data] == [0, 1, 2]
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 3
    for item, expected in zip(answer.data, over_grpc(server, *WORDS), strict=True):
        found = item.embedding
        if isinstance(found, str):
            found = np.frombuffer(base64.b64decode(found), "<f4").tolist()
        assert cosine(np.array(found, np.float32), expected) > 0.99999


def test_openai_client_cuts_dimensions(server: Server, client: openai.OpenAI) -> None:
    (item,) = client.embeddings.create(model="qwen", input="a cat", dimensions=16).data
    given = pb.OutputOptions(dimensions=16)
    (expected,) = over_grpc(server, "a cat", output=given)
    np.testing.assert_allclose(item.embedding, expected, atol=1e-5)


def test_openai_client_lists_models_and_sees_errors(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["phi", "qwen"]
    assert client.models.retrieve("phi").id == "phi"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt")
    with pytest.raises(openai.NotFoundError) as missing:
        client.embeddings.create(model="qwen@canaries", input="a")
    assert "canaries" in missing.value.message
    with pytest.raises(openai.BadRequestError) as bad:
        client.embeddings.create(model="qwen", input=["a", ""])
    assert bad.value.param == "input[1].text"


def test_langchain(server: Server) -> None:
    embeddings = OpenAIEmbeddings(
        model="qwen",
        base_url=f"http://{server.http_address}/v1",
        api_key="any",  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    for found, expected in zip(
        embeddings.embed_documents(WORDS), over_grpc(server, *WORDS), strict=True
    ):
        assert cosine(np.array(found, np.float32), expected) > 0.99999


def test_llama_index(server: Server) -> None:
    embedding = OpenAIEmbedding(
        model_name="qwen", api_base=f"http://{server.http_address}/v1", api_key="any"
    )
    found = embedding.get_text_embedding_batch(WORDS)
    for vector, expected in zip(found, over_grpc(server, *WORDS), strict=True):
        assert cosine(np.array(vector, np.float32), expected) > 0.99999


# Inputs


@pytest.mark.parametrize(("model", "version"), [("qwen", "dora"), ("phi", "lora")])
def test_golden_vectors(http: httpx.Client, golden: Golden, model: str, version: str) -> None:
    cases = CASES[ARCHITECTURES[model]]
    answer = embed(http, model=f"{model}@{version}", input=[case_item(case) for case in cases])
    assert answer["version"] == version
    for case, vector in zip(cases, vectors(answer), strict=True):
        key = f"{ARCHITECTURES[model]}/{version}/{case['id']}"
        assert cosine(vector, golden[key]) > 0.9999, key


def test_token_ids_are_the_models_own(http: httpx.Client, golden: Golden) -> None:
    case = next(c for c in CASES["qwen2_vl"] if not c.get("images") and not c.get("video"))
    ids = golden[f"qwen2_vl/input_ids/{case['id']}"].tolist()
    for given in (ids, [ids], [ids, ids]):
        answer = embed(http, model="qwen@lora", input=given)
        assert answer["usage"]["prompt_tokens"] == sum(map(len, given if given != ids else [ids]))
        for vector in vectors(answer):
            assert cosine(vector, golden[f"qwen2_vl/lora/{case['id']}"]) > 0.9999


def test_ways_to_say_the_same(http: httpx.Client) -> None:
    case = next(c for c in CASES["qwen2_vl"] if c.get("images"))
    uri = data_uri(case_request(case).images[0])
    image, words = {"type": "image_url", "image_url": {"url": uri}}, "what is it?"
    part = {"type": "text", "text": words}
    bodies: list[dict[str, Any]] = [
        {"input": {"instruction": "Look.", "image_url": uri, "text": words}},
        {"input": [{"image_url": {"url": uri}, "text": words}], "instruction": "Look."},
        {"input": [{"content": [image, part]}], "instruction": "Look."},
        {"messages": [{"role": "user", "content": [image, part]}], "instruction": "Look."},
        {
            "messages": [
                {"role": "system", "content": "Look."},
                {"role": "user", "content": [image]},
                {"role": "user", "content": words},
            ]
        },
    ]
    found = [vectors(embed(http, **body))[0] for body in bodies]
    for vector in found[1:]:
        assert cosine(vector, found[0]) > 0.99999
    (without,) = vectors(embed(http, input=words))
    assert cosine(without, found[0]) < 0.999


def test_large_pictures(http: httpx.Client) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1500, 1500, 3), np.uint8)
    uri = data_uri(Image.fromarray(pixels))
    assert len(uri) > 8_000_000
    assert embed(http, input={"image_url": uri})["usage"]["prompt_tokens"] > 100
    # Larger than max_image_bytes, smaller than a body may be.
    uri = "data:image/png;base64," + base64.b64encode(bytes(20_971_521)).decode()
    answer = http.post("/v1/embeddings", json={"model": "qwen", "input": {"image_url": uri}})
    assert (answer.status_code, "max_image_bytes" in answer.text) == (400, True)


def test_models_are_found_by_alias_version_and_space(http: httpx.Client) -> None:
    (model,) = [m for m in http.get("/v1/models").json()["data"] if m["id"] == "qwen"]
    assert model["ready"]
    assert model["dimension"] == 128
    for version in model["versions"]:
        for which in (version["version"], version["space"], *version["aliases"]):
            answer = embed(http, model=f"qwen@{which}", input="a")
            assert (answer["model"], answer["version"]) == ("qwen", version["version"])
            assert answer["space"] == version["space"]


def test_normalize_and_priority(http: httpx.Client) -> None:
    (plain,) = vectors(embed(http, input="a cat", normalize=False, priority="bulk", user="me"))
    (unit,) = vectors(embed(http, input="a cat", encoding_format=None, user=None))
    assert abs(np.linalg.norm(unit) - 1) < 1e-4
    assert abs(np.linalg.norm(plain) - 1) > 1e-2
    assert cosine(plain, unit) > 0.99999


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank"])
def test_rerank_is_rank(server: Server, http: httpx.Client, path: str) -> None:
    documents: list[Any] = ["a dog", "a cat on a mat", {"text": "boats"}]
    body = {
        "model": "qwen", "query": "a cat", "documents": documents, "return_documents": True,
        "top_n": 2, "instruction": "Find it.",
    }  # fmt: skip
    answer = http.post(path, json=body).json()
    request = pb.RankRequest(
        options=options(),
        query=pb.Input(instruction="Find it.", parts=[pb.Part(text="a cat")]),
        candidates=[text_input(words) for words in ("a dog", "a cat on a mat", "boats")],
        top_k=2,
    )
    expected = server.embedding.Rank(request)
    assert len(answer["results"]) == 2
    for result, candidate in zip(answer["results"], expected.candidates, strict=True):
        assert result["index"] == candidate.index
        assert result["relevance_score"] == pytest.approx(candidate.score, abs=1e-4)
        document = documents[candidate.index]
        assert result["document"] == ({"text": document} if isinstance(document, str) else document)
    assert answer["usage"]["total_tokens"] == expected.tokens > 0
    assert answer["space"] == expected.space


# What is refused

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
    ({"input": [1, 2048]}, 400, "input[0].token_ids[1]"),
    ({"input": ["a"] * 65}, 400, "input"),
    ({"input": ""}, 400, "input[0].text"),
    ({"input": "\ud800"}, 400, "input"),
    ({"input": {"words": "a"}}, 400, "input.words"),
    ({"input": {"\ud800": "a"}}, 400, "input.?"),
    ({"input": {"prompt": "a", "text": "b"}}, 400, "input[0].parts[0].text"),
    ({"input": {"image_url": "data:image/png,abc"}}, 400, "input.image_url"),
    ({"input": {"image_url": "data:image/png;base64,a"}}, 400, "input.image_url"),
    ({"input": {"image_url": {"href": "x"}}}, 400, "input.image_url.href"),
    ({"input": {"image_url": "data:image/png;base64,AAAA"}}, 400, "input[0].parts[0].image"),
    ({"input": {"image_url": GIF}}, 400, "input[0].parts[0].image"),
    ({"input": {"video_url": GIF}}, 400, "input[0].parts[0].video.file"),
    ({"input": {"image_url": "http://127.0.0.1/a.png"}}, 400, "input.image_url"),
    ({"input": {"image_url": "file:///etc/passwd"}}, 400, "input.image_url"),
    ({"input": {"content": [{"type": "audio"}]}}, 400, "input.content[0].type"),
    ({"input": {"content": [{"type": "text"}]}}, 400, "input.content[0].text"),
    ({"input": {"content": [{"type": "image_url", "image_url": GIF}] * 18}}, 400,
     "input.content[17].image_url"),
    ({"messages": []}, 400, "messages"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 400, "messages[0].role"),
    ({"messages": [{"role": "user"}]}, 400, "messages[0].content"),
    ({"messages": [{"role": "system", "content": [{"type": "image_url", "image_url": GIF}]}]},
     400, "messages[0].content"),
    ({"input": "a", "dimensions": 0}, 400, "dimensions"),
    ({"input": "a", "dimensions": 129}, 400, "dimensions"),
    ({"input": "a", "dimensions": "8"}, 400, "dimensions"),
    ({"input": "a", "dimensions": 10**30}, 400, "dimensions"),
    ({"input": "a", "encoding_format": "int8"}, 400, "encoding_format"),
    ({"input": "a", "priority": "high"}, 400, "priority"),
    ({"input": "a", "user": LONG}, 400, "user"),
    ({"input": "a", "temperature": 1}, 400, "temperature"),
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
        ({"query": "a", "documents": ["b", ""]}, "documents[1].text"),
        ({"query": "", "documents": ["b"]}, "query.text"),
        ({"query": "a", "documents": ["b"], "top_n": 0}, "top_n"),
        ({"query": "a", "documents": ["b"] * 65}, "documents"),
    ],
)
def test_bad_rankings_are_named(http: httpx.Client, body: dict[str, Any], param: str) -> None:
    answer = http.post("/v1/rerank", json={"model": "qwen", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text


def test_unknown_paths_and_methods(server: Server, http: httpx.Client) -> None:
    assert http.get("/v1/chat").status_code == 404
    assert http.get("/v1/embeddings").status_code == 405
    assert http.post("/v1/models").status_code == 405
    name = f"/{uuid.uuid4().hex}"
    assert http.get(name).json()["error"]["type"] == "not_found_error"
    # What callers choose never becomes a label.
    assert name not in server.metrics_text()


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


# Around requests


def test_request_ids_come_back(http: httpx.Client) -> None:
    id = f"mine-{uuid.uuid4()}"
    for status, body in ((200, {"model": "qwen", "input": "a"}), (400, {})):
        answer = http.post("/v1/embeddings", json=body, headers={"x-request-id": id})
        assert (answer.status_code, answer.headers["x-request-id"]) == (status, id)
    assert (
        http.get("/v1/models", headers={b"x-request-id": b"\xff"}).headers["x-request-id"].isalnum()
    )


def test_requests_are_counted_with_those_of_grpc(server: Server, http: httpx.Client) -> None:
    def counted(code: str) -> float:
        return server.metric("requests_total", method="/v1/embeddings", code=code)

    before = counted("OK"), counted("NOT_FOUND"), server.metric("inputs_total", model="qwen")
    embed(http, input=["a", "b"])
    http.post("/v1/embeddings", json={"model": "gwen", "input": "a"})
    assert counted("OK") == before[0] + 1
    assert counted("NOT_FOUND") == before[1] + 1
    assert server.metric("inputs_total", model="qwen") == before[2] + 2
    assert server.metric("request_seconds_count", method="/v1/embeddings") > 0
    assert server.metric("requests_in_flight", method="/v1/embeddings") == 0


def test_who_leaves_is_cancelled(server: Server) -> None:
    def cancelled() -> float:
        return server.metric("requests_total", method="/v1/embeddings", code="CANCELLED")

    before = cancelled()
    host, _, port = server.http_address.rpartition(":")
    words = "one two three " * 1000
    body = json.dumps({"model": "qwen", "input": [words] * 64}).encode()
    with socket.create_connection((host, int(port))) as connection:
        head = f"POST /v1/embeddings HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        wait_until(lambda: server.metric("requests_in_flight", method="/v1/embeddings") == 1)
    wait_until(lambda: cancelled() == before + 1)
    wait_until(lambda: server.metric("pending_requests") == 0)


def test_health_and_pages(http: httpx.Client) -> None:
    assert http.get("/healthz").json() == {"status": "alive"}
    assert http.get("/readyz").json() == {"status": "ready"}
    assert "swagger" in http.get("/docs").text
    paths = http.get("/openapi.json").json()["paths"]
    expected = {"/v1/embeddings", "/v1/rerank", "/v1/models", "/v1/models/{model}"}
    assert set(paths) == expected | {"/healthz", "/readyz"}


def test_fuzzing_finds_no_fault(server: Server, tmp_path: Path) -> None:
    """Whatever fits the OpenAPI page or does not: no 500, and answers as the page says."""
    checks = (
        "not_a_server_error", "status_code_conformance", "content_type_conformance",
        "response_schema_conformance",
    )  # fmt: skip
    command: list[str | Path] = [
        Path(sys.executable).with_name("schemathesis"), "run",
        f"http://{server.http_address}/openapi.json", "--max-examples", "5", "--seed", "7",
        "--phases", "coverage,fuzzing", "--checks", ",".join(checks),
    ]  # fmt: skip
    result = subprocess.run(command, text=True, capture_output=True, cwd=tmp_path, check=False)
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
