"""The HTTP API as OpenAI's own client and those built on it use it."""

import asyncio
import base64
from typing import Any

import numpy as np
import openai
import pytest
from langchain_openai import OpenAIEmbeddings
from llama_index.embeddings.openai import OpenAIEmbedding

from tests.e2e.cases import cosine, options, unpack
from tests.e2e.cases import text as text_input
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

WORDS = ["a cat", "two boats on a lake", "a cat"]


@pytest.fixture(scope="module")
def client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://{server.http_address}/v1", api_key="any", max_retries=0)


def over_grpc(server: Server, *words: str, **values: Any) -> list[Any]:
    request = pb.EmbedRequest(options=options(**values), inputs=map(text_input, words))
    return [unpack(item.vector) for item in server.embedding.Embed(request).embeddings]


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


def test_openai_client_sends_token_ids(server: Server, client: openai.OpenAI) -> None:
    ids = [[5, 6, 7], [8, 9]]
    answer = client.embeddings.create(model="qwen", input=ids)
    inputs = [pb.Input(token_ids=given) for given in ids]
    expected = server.embedding.Embed(pb.EmbedRequest(options=options(), inputs=inputs)).embeddings
    for item, embedding in zip(answer.data, expected, strict=True):
        assert cosine(np.array(item.embedding, np.float32), unpack(embedding.vector)) > 0.99999


def test_openais_async_client(server: Server) -> None:
    async def ask() -> list[Any]:
        url = f"http://{server.http_address}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            create = client.embeddings.create
            return await asyncio.gather(*(create(model="qwen", input=words) for words in WORDS))

    for answer, expected in zip(asyncio.run(ask()), over_grpc(server, *WORDS), strict=True):
        assert cosine(np.array(answer.data[0].embedding, np.float32), expected) > 0.99999


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
    assert bad.value.param == "input[1]"


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
