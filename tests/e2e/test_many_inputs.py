"""As many inputs in one call as clients send: 2048 over gRPC and HTTP, and not one more."""

import grpc
import httpx
import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding
from PIL import Image

from tests.e2e.cases import options, text, unpack
from tests.e2e.grpc_calls import embed, failure
from tests.e2e.http_calls import data_uri, vectors
from tests.e2e.http_calls import embed as embed_over_http
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

MANY = 2048
WORDS = [f"document {i}" for i in range(MANY)]
ASKED = [0, 63, 64, 255, 256, 999, MANY - 1]
"""Inputs whose vectors are compared with those that they get alone."""


def require_theirs(server: Server, found: list[list[float]]) -> None:
    """Requires that ``found``, in the order of `WORDS`, are the vectors of each word alone."""
    asked = [index for index in ASKED if index < len(found)]
    expected = embed(server, *(text(WORDS[index]) for index in asked))
    np.testing.assert_allclose([found[index] for index in asked], expected, atol=1e-5)


def test_grpc(server: Server) -> None:
    request = pb.EmbedRequest(options=options(), inputs=map(text, WORDS))
    found = [unpack(item.vector).tolist() for item in server.embedding.Embed(request).embeddings]
    assert len(found) == MANY
    require_theirs(server, found)


def test_rank(server: Server) -> None:
    request = pb.RankRequest(options=options(), query=text(WORDS[999]), candidates=map(text, WORDS))
    ranked = server.embedding.Rank(request).candidates
    assert ranked[0].index == 999
    assert sorted(item.index for item in ranked) == list(range(MANY))


def test_openai_client(server: Server) -> None:
    client = openai.OpenAI(base_url=f"http://{server.http_address}/v1", api_key="any")
    answer = client.embeddings.create(model="qwen", input=WORDS)
    assert [item.index for item in answer.data] == list(range(MANY))
    require_theirs(server, [item.embedding for item in answer.data])


def test_langchain_by_its_default_of_1000(server: Server) -> None:
    embeddings = OpenAIEmbeddings(
        model="qwen",
        base_url=f"http://{server.http_address}/v1",
        api_key="any",  # type: ignore[arg-type]
        check_embedding_ctx_length=False,
    )
    assert embeddings.chunk_size == 1000
    require_theirs(server, embeddings.embed_documents(WORDS[:1100]))


def test_llama_index_by_its_default_of_100(server: Server) -> None:
    embedding = OpenAIEmbedding(
        model_name="qwen", api_base=f"http://{server.http_address}/v1", api_key="any"
    )
    assert embedding.embed_batch_size == 100
    require_theirs(server, embedding.get_text_embedding_batch(WORDS[:150]))


def test_pictures(http: httpx.Client) -> None:
    pictures = [
        {"image_url": data_uri(Image.new("RGB", (28, 28), (i % 256, i // 256, 0)))}
        for i in range(MANY)
    ]
    found = vectors(embed_over_http(http, input=pictures))
    assert len(found) == MANY
    for index in (0, 1000, MANY - 1):
        (alone,) = vectors(embed_over_http(http, input=pictures[index]))
        np.testing.assert_allclose(found[index], alone, atol=1e-5)


@pytest.mark.parametrize("index", [17, 300])
def test_a_bad_one_is_named(server: Server, http: httpx.Client, index: int) -> None:
    inputs = [*map(text, WORDS)]
    inputs[index] = pb.Input(parts=[pb.Part(image=b"none")])
    error = failure(server.embedding.Embed, pb.EmbedRequest(options=options(), inputs=inputs))
    assert error.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert (error.details() or "").startswith(f"inputs[{index}].parts[0].image: ")
    words = [*WORDS[:index], "", *WORDS[index + 1 :]]
    answer = http.post("/v1/embeddings", json={"model": "qwen", "input": words})
    assert answer.status_code == 400
    assert f"input[{index}]" in answer.json()["error"]["param"]


@pytest.mark.parametrize("path", ["/v1/embeddings", "/v1/rerank"])
def test_one_more_is_refused_with_the_limit(http: httpx.Client, path: str) -> None:
    field = "input" if path == "/v1/embeddings" else "documents"
    body = {"model": "qwen", field: ["a"] * (MANY + 1)}
    if field == "documents":
        body["query"] = "a"
    answer = http.post(path, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert "max_inputs, 2048" in answer.json()["error"]["message"]
