"""Clients that were written for OpenAI's embeddings or Cohere's, unchanged: Haystack, and where
these are installed the embedding functions of Chroma and LanceDB, and LangChain's for Cohere."""

from typing import Any

import numpy as np
import pytest

from tests.e2e.cases import cosine, options, unpack
from tests.e2e.cases import text as text_input
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

WORDS = ["a cat", "two boats on a lake", "a cat"]


def require_those_of_grpc(server: Server, found: Any, words: list[str] = WORDS) -> None:
    """Requires that ``found`` are the vectors of ``words``, in order."""
    request = pb.EmbedRequest(options=options(), inputs=map(text_input, words))
    expected = [unpack(item.vector) for item in server.embedding.Embed(request).embeddings]
    for vector, other in zip(found, expected, strict=True):
        assert cosine(np.array(vector, np.float32), other) > 0.99999


@pytest.fixture
def base_url(server: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address that these clients are told; they read the key from the environment."""
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    monkeypatch.setenv("HAYSTACK_TELEMETRY_ENABLED", "False")
    return f"http://{server.http_address}/v1"


def test_haystack(server: Server, base_url: str) -> None:
    from haystack import Document
    from haystack.components.embedders import OpenAIDocumentEmbedder, OpenAITextEmbedder

    query = OpenAITextEmbedder(model="qwen", api_base_url=base_url).run("a cat")
    require_those_of_grpc(server, [query["embedding"]], ["a cat"])
    embedder = OpenAIDocumentEmbedder(model="qwen", api_base_url=base_url, progress_bar=False)
    documents = embedder.run([Document(content=words) for words in WORDS[:2]] * 20)["documents"]
    require_those_of_grpc(server, [item.embedding for item in documents], WORDS[:2] * 20)


def test_chromas_openai_function(server: Server, base_url: str) -> None:
    chroma = pytest.importorskip("chromadb.utils.embedding_functions")
    embed = chroma.OpenAIEmbeddingFunction(model_name="qwen", api_base=base_url)
    require_those_of_grpc(server, embed(WORDS))


def test_lancedbs_openai_function(server: Server, base_url: str) -> None:
    lancedb = pytest.importorskip("lancedb.embeddings")
    embed = lancedb.get_registry().get("openai").create(name="qwen", base_url=base_url, dim=128)
    require_those_of_grpc(server, embed.generate_embeddings(WORDS))


def test_langchains_for_cohere(server: Server) -> None:
    langchain = pytest.importorskip("langchain_cohere")
    told = {"cohere_api_key": "any", "base_url": f"http://{server.http_address}", "model": "qwen"}
    embed = langchain.CohereEmbeddings(**told)
    require_those_of_grpc(server, embed.embed_documents(WORDS * 40), WORDS * 40)
    require_those_of_grpc(server, [embed.embed_query("a cat")], ["a cat"])
    ranked = langchain.CohereRerank(**told).rerank(WORDS[:2], WORDS[1])
    assert [item["index"] for item in ranked] == [1, 0]
