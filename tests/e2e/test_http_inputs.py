"""What requests over HTTP may say, and the golden vectors and ranks that they get for it."""

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

import vlm2vec
from tests.conftest import CASES, case_pictures
from tests.e2e.cases import ARCHITECTURES, Golden, cosine, options, png
from tests.e2e.cases import text as text_input
from tests.e2e.http_calls import data_uri, embed, vectors
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.settings import Limits

PICTURES = Path(__file__).parents[1] / "unit" / "data" / "pictures"


def case_item(case: dict[str, Any]) -> dict[str, Any]:
    """A parity case as an input, its pictures as data URIs."""
    images, video = (case_pictures(case, key) for key in ("images", "video"))
    parts = [{"type": "image_url", "image_url": {"url": data_uri(picture)}} for picture in images]
    if video:
        frames = []
        for picture in video:
            frames.append(base64.b64encode(png(picture)).decode())
        url = "data:video/jpeg;base64," + ",".join(frames)
        parts.append({"type": "video_url", "video_url": {"url": url}})
    return {"prompt": case["text"], "content": parts}


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
    uri = data_uri(case_pictures(case, "images")[0])
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


def test_pictures_as_people_have_them(http: httpx.Client) -> None:
    avif = io.BytesIO()
    Image.open(PICTURES / "photo-exif-6.jpg").save(avif, "AVIF", speed=10)
    tiff = io.BytesIO()
    photo = Image.open(PICTURES / "photo-exif-6.jpg").convert("CMYK")
    photo.save(tiff, "TIFF", compression="tiff_lzw", save_all=True, append_images=[photo])
    heic = (PICTURES / "quarters-turned-6.heic").read_bytes()
    files = {"avif": avif.getvalue(), "tiff": tiff.getvalue(), "heic": heic}
    uris = [f"data:image/{t};base64,{base64.b64encode(f).decode()}" for t, f in files.items()]
    decoded = [measure_image(file, Limits()).decoded("viewed") for file in files.values()]
    given = [{"image_url": uri} for uri in [*uris, *map(data_uri, decoded)]]
    found = vectors(embed(http, input=given))
    for of_file, of_pixels in zip(found[:3], found[3:], strict=True):
        assert cosine(of_file, of_pixels) > 0.9999
    assert cosine(found[0], found[2]) < 0.9999


def test_models_are_found_by_alias_version_and_space(server: Server, http: httpx.Client) -> None:
    client = vlm2vec.Client(server.address)
    (model,) = [m for m in http.get("/v1/models").json()["data"] if m["id"] == "qwen"]
    assert model["takes"] == ["image", "video"]
    assert model["ready"]
    assert model["dimension"] == 128
    for version in model["versions"]:
        for which in (version["version"], version["space"], *version["aliases"]):
            answer = embed(http, model=f"qwen@{which}", input="a")
            assert (answer["model"], answer["version"]) == ("qwen", version["version"])
            assert answer["space"] == version["space"]
            over_grpc = client.embed("a", model=f"qwen@{which}", details=True)
            assert (over_grpc.version, over_grpc.space) == (version["version"], version["space"])
    for wrong, problem in (("qwen@", "follows the @"), ("qwen@none", "has no alias 'none'")):
        with pytest.raises(vlm2vec.VLM2VecError, match=problem):
            client.embed("a", model=wrong)
    client.close()


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
    parts = [{"type": "text", "text": "a cat"}, {"type": "text", "text": "boats"}]
    body = {"query": "a cat", "documents": {"content": parts}, "return_documents": True}
    results = http.post(path, json={"model": "qwen", **body}).json()["results"]
    assert [one["document"] for one in results] == [{"text": "a cat"}, {"text": "boats"}]
