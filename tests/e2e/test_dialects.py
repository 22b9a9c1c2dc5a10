"""What docs/http-api.md says of other servers' fields, row by row, and their own clients."""

import base64
import re
from importlib import import_module
from pathlib import Path
from typing import Any

import cohere
import httpx
import numpy as np
import pytest
from huggingface_hub import InferenceClient

from tests.e2e.cases import Vector, cosine, text, unpack
from tests.e2e.dialects import IMAGE, PICTURE, ROWS, SENTENCE, URI, Row, embeds, told
from tests.e2e.http_calls import embed
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

DOCS = Path(__file__).parents[2] / "docs" / "http-api.md"
VERBS = ("means", "ignored", "refused")


def numbers(vector: Any, format: str) -> Vector:
    """A vector of an answer as float32; -1 and 1 from bits."""
    if format == "base64":
        return np.frombuffer(base64.b64decode(vector), "<f4")
    if format in ("binary", "ubinary"):
        octets = np.array(vector) + (128 if format == "binary" else 0)
        return np.unpackbits(octets.astype(np.uint8)) * np.float32(2) - 1
    return np.array(vector, np.float32)


def vectors(row: Row, answer: Any) -> list[Vector]:
    """The vectors of an answer to ``row``, or of a ranking the scores."""
    if row.path == "/v1/embeddings":
        kind = row.body.get("embedding_type") or row.body.get("encoding_format") or "float"
        kind = kind[0] if isinstance(kind, list) else kind
        return [numbers(item["embedding"], kind) for item in answer["data"]]
    if row.path == "/v2/embed":
        ((kind, found),) = answer["embeddings"].items()
        return [numbers(vector, kind) for vector in found]
    if row.path == "/embed":
        return [numbers(vector, "float") for vector in answer]
    if row.path == "/similarity":
        answer = [{"index": index, "score": score} for index, score in enumerate(answer)]
    results: Any = answer
    if isinstance(answer, dict):
        results = answer["results"] if "results" in answer else answer["data"]
    (score,) = {"relevance_score", "score"} & set(results[0])
    results = sorted(results, key=lambda item: int(item["index"]))
    return [np.array([result["index"], result[score]], np.float32) for result in results]


def over_grpc(server: Server, call: pb.EmbedRequest | pb.RankRequest) -> list[Vector]:
    call.options.model.name = "qwen"
    if isinstance(call, pb.EmbedRequest):
        return [unpack(item.vector) for item in server.embedding.Embed(call).embeddings]
    found = sorted(server.embedding.Rank(call).candidates, key=lambda item: item.index)
    return [np.array([item.index, item.score], np.float32) for item in found]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.dialect}-{row.field}-{row.does}")
def test_a_field_does_what_the_docs_say(server: Server, http: httpx.Client, row: Row) -> None:
    answer = http.post(row.path, json={"model": "qwen", **row.body})
    if row.call is None:
        error = answer.json()["error"]
        assert (answer.status_code, error["param"]) == (400, row.param), error
        return
    assert answer.status_code == 200, answer.text
    found, expected = vectors(row, answer.json()), over_grpc(server, row.call)
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


def test_the_table_has_what_is_tested_and_nothing_else() -> None:
    tested: dict[tuple[str, str], set[str]] = {}
    for row in ROWS:
        tested.setdefault((row.dialect, row.field), set()).add(row.does)
    table = DOCS.read_text().split("## Other servers' fields")[1].split("\n## ")[0]
    written = {}
    for dialect, field, does in re.findall(
        r"^\| (\w+) \| `(.+?)` \| (.+) \|$", table, re.MULTILINE
    ):
        key = (dialect, field.replace("`, `", ", "))
        assert key not in written
        written[key] = {verb for verb in VERBS if re.search(rf"\b{verb}\b", does)}
    assert written == tested


def test_what_was_truncated_is_said(http: httpx.Client) -> None:
    long = "one " * 9000
    items = embed(http, input=["a", long], truncate=True)["data"]
    assert [item.get("truncated") for item in items] == [None, True]
    body = {"model": "qwen", "query": "a", "documents": ["a", long], "truncate_prompt_tokens": -1}
    results = http.post("/v1/rerank", json=body).json()["results"]
    assert {item["index"]: item.get("truncated") for item in results} == {0: None, 1: True}
    answer = http.post("/v2/embed", json={"model": "qwen", "texts": ["a", long]}).json()
    assert answer["meta"]["warnings"] == ["the end was left out of the inputs 1"]
    answer = http.post(
        "/v2/embed", json={"model": "qwen", "texts": ["a", long], "truncate": "NONE"}
    )
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "texts[1]")


def test_coheres_own_client(server: Server) -> None:
    client = cohere.ClientV2("any", base_url=f"http://{server.http_address}")
    found = client.embed(
        model="qwen", input_type=SENTENCE, texts=["a cat"], embedding_types=["float", "ubinary"]
    )
    (expected,) = over_grpc(server, embeds(told(SENTENCE, text("a cat"))))
    assert found.embeddings.float_ is not None
    assert cosine(np.array(found.embeddings.float_[0], np.float32), expected) > 0.99999
    assert found.embeddings.ubinary == [np.packbits(expected > 0).tolist()]
    image = client.embed(model="qwen", input_type="image", images=[URI], embedding_types=["float"])
    assert image.embeddings.float_ is not None
    ranked = client.rerank(model="qwen", query="a cat", documents=["two boats", "a cat"], top_n=1)
    assert [item.index for item in ranked.results] == [1]
    with pytest.raises(cohere.NotFoundError):
        client.embed(model="gwen", input_type="image", images=[URI], embedding_types=["float"])
    with pytest.raises(cohere.BadRequestError) as bad:
        client.embed(model="qwen", input_type="image", texts=["a"], truncate="START")
    assert bad.value.body["error"]["param"] == "truncate"


def test_coheres_client_of_the_first_version(server: Server) -> None:
    client = cohere.Client("any", base_url=f"http://{server.http_address}")
    texts = [f"{number} cats" for number in range(100)]  # more than it sends in one call
    expected = over_grpc(server, embeds(*map(text, texts)))
    found = client.embed(model="qwen", input_type="search_query", texts=texts)
    assert isinstance(found.embeddings, list)
    for vector, other in zip(found.embeddings, expected, strict=True):
        assert cosine(np.array(vector, np.float32), other) > 0.99999
    by_type = client.embed(model="qwen", texts=texts, embedding_types=["float", "ubinary"])
    assert not isinstance(by_type.embeddings, list)
    assert by_type.embeddings.float_ == found.embeddings
    assert by_type.embeddings.ubinary == [np.packbits(one > 0).tolist() for one in expected]
    assert by_type.texts == texts
    ranked = client.rerank(model="qwen", query="a cat", documents=["two boats", {"text": "a cat"}])
    assert [item.index for item in ranked.results] == [1, 0]
    with pytest.raises(cohere.BadRequestError) as bad:
        client.embed(model="qwen", texts=["a", ""])
    assert bad.value.body["error"]["param"] == "texts[1]"


def test_coheres_images_are_a_list(http: httpx.Client) -> None:
    answer = http.post("/v2/embed", json={"model": "qwen", "input_type": "image", "images": URI})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "images")


def test_the_hubs_own_client_for_text_embeddings_inference(server: Server) -> None:
    (expected,) = over_grpc(server, embeds(text("a cat")))
    for path in ("/embed", "/"):
        client = InferenceClient(model=f"http://{server.http_address}{path}?model=qwen")
        found = client.feature_extraction("a cat", normalize=True, truncate=True)
        assert cosine(found[0], expected) > 0.99999
    with pytest.raises(Exception, match="prompt_name"):
        client.feature_extraction("a cat", prompt_name="query")
    openai = httpx.post(
        f"http://{server.http_address}/embeddings", json={"model": "qwen", "input": "a cat"}
    )
    assert cosine(np.array(openai.json()["data"][0]["embedding"], np.float32), expected) > 0.99999
    client = InferenceClient(model=f"http://{server.http_address}/similarity?model=qwen")
    same, other = client.sentence_similarity("a cat", other_sentences=["a cat", "two boats"])
    assert other < 0.999 < same


def test_infinitys_own_clients(server: Server) -> None:
    infinity = pytest.importorskip("infinity_client")
    calls, kinds = (import_module(f"infinity_client.{name}") for name in ("api.default", "models"))
    for name in ("embeddings", "rerank"):
        import_module(f"{calls.__name__}.{name}")
    url = f"http://{server.http_address}"
    words, picture = over_grpc(server, embeds(text("a cat"), IMAGE))
    with infinity.Client(base_url=url) as client:
        for modality, value, expected in (("text", "a cat", words), ("image", URI, picture)):
            asked = {"model": "qwen", "input": [value], "modality": modality}
            kind = getattr(kinds, f"OpenAIEmbeddingInput{modality.title()}")
            answer = calls.embeddings.sync(client=client, body=kind.from_dict(asked))
            found = np.array(answer.data[0].embedding, np.float32)
            assert cosine(found, expected) > 0.99999
        asked = {"model": "qwen", "query": "a cat", "documents": ["two boats", "a cat"]}
        body = kinds.RerankInput.from_dict(asked)
        ranked = calls.rerank.sync(client=client, body=body)
        assert [result.index for result in ranked.results] == [1, 0]
    vision = import_module("infinity_client.vision_client").InfinityVisionAPI(url=url, model="qwen")
    vectors, _ = vision.image_embed("qwen", [PICTURE]).result()  # as a JPEG
    assert cosine(vectors[0][0], picture) > 0.99


def test_models_are_listed_without_the_version_too(http: httpx.Client) -> None:
    found = [http.get(path).json()["data"] for path in ("/models", "/v1/models")]
    assert found[0] == found[1]
    assert "qwen" in [model["id"] for model in found[0]]


def test_info(http: httpx.Client) -> None:
    answer = http.get("/info", params={"model": "qwen"}).json()
    assert (answer["model_id"], answer["max_input_length"]) == ("qwen", 8192)
    assert answer["max_client_batch_size"] == 2048
    (space,) = {item["space"] for item in [embed(http, input="a")]}
    assert answer["model_sha"] == space
    assert http.get("/info", params={"model": "gwen"}).status_code == 404
