"""KServe's open inference protocol over REST: the vectors of gRPC for rows of tensors."""

import asyncio
import json
import struct
from typing import Any

import httpx
import numpy as np
import pytest

from tests.e2e.cases import Vector, png, text, unpack
from tests.e2e.dialects import BASE64, CUT, IMAGE, PICTURE, RAW, SENTENCE, URI, A, B, embeds, told
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

PATH = "/v2/models/qwen/infer"
LENGTH = "inference-header-content-length"
WORDS = ["a cat", "two boats"]
BOTH = pb.Input(parts=[*A.parts, *IMAGE.parts])
FILM = pb.Input(parts=[pb.Part(video=pb.Video(frames=pb.Frames(images=[png(PICTURE)] * 2)))])
LONG = "one " * 9000
MARK = "<|image_pad|>"


def tensor(name: str, *data: Any, shape: list[int] | None = None, **more: Any) -> dict[str, Any]:
    """A tensor of strings in the JSON."""
    sent = {"name": name, "shape": shape or [len(data)], "datatype": "BYTES", "data": list(data)}
    return {key: value for key, value in {**sent, **more}.items() if value is not None}


def expected(server: Server, call: pb.EmbedRequest) -> list[Vector]:
    """The vectors that gRPC gives for ``call``."""
    call.options.model.name = "qwen"
    return [unpack(item.vector) for item in server.embedding.Embed(call).embeddings]


def require_vectors(found: Any, vectors: list[Vector]) -> None:
    np.testing.assert_allclose(found, np.stack(vectors), atol=2e-4)


ROWS: list[tuple[str, list[dict[str, Any]], dict[str, Any], pb.EmbedRequest]] = [
    ("texts", [tensor("text", *WORDS)], {}, embeds(A, B)),
    ("a column", [tensor("text", *WORDS, shape=[2, 1])], {}, embeds(A, B)),
    ("nested", [tensor("text", ["a cat"], ["two boats"], shape=[2, 1])], {}, embeds(A, B)),
    ("pictures", [tensor("image", URI, BASE64)], {}, embeds(IMAGE, IMAGE)),
    ("film", [tensor("video", f"data:video/jpeg;base64,{BASE64},{BASE64}")], {}, embeds(FILM)),
    ("text and picture", [tensor("text", "a cat"), tensor("image", URI)], {}, embeds(BOTH)),
    ("text or picture", [tensor("text", "a cat", "", "two boats"), tensor("image", "", URI, "")],
     {}, embeds(A, IMAGE, B)),
    ("one task", [tensor("text", *WORDS), tensor("instruction", SENTENCE)], {},
     embeds(told(SENTENCE, A), told(SENTENCE, B))),
    ("a task each", [tensor("instruction", SENTENCE, ""), tensor("text", *WORDS)], {},
     embeds(told(SENTENCE, A), B)),
    ("dimensions", [tensor("text", "a cat")], {"dimensions": 16}, embeds(A, output=CUT)),
    ("normalize", [tensor("text", "a cat")], {"normalize": False}, embeds(A, output=RAW)),
    ("truncate", [tensor("text", "a cat")], {"truncate": True}, embeds(A, truncate=0)),
    ("so many tokens", [tensor("text", LONG)], {"truncate": 8}, embeds(text(LONG), truncate=8)),
    ("bulk", [tensor("text", "a cat")], {"priority": "bulk", "user": "me"}, embeds(A)),
]  # fmt: skip


@pytest.mark.parametrize(("name", "tensors", "parameters", "call"), ROWS, ids=lambda x: str(x)[:20])
def test_rows_have_the_vectors_of_grpc(
    server: Server,
    http: httpx.Client,
    name: str,
    tensors: Any,
    parameters: Any,
    call: pb.EmbedRequest,
) -> None:
    body = {"id": "mine", "inputs": tensors, "parameters": parameters}
    answer = http.post(PATH, json=body)
    assert answer.status_code == 200, answer.text
    values = answer.json()
    assert (values["id"], values["model_name"]) == ("mine", "qwen")
    (output,) = values["outputs"]
    assert (output["name"], output["datatype"]) == ("embedding", "FP32")
    require_vectors(np.array(output["data"]).reshape(output["shape"]), expected(server, call))
    assert values["parameters"].get("truncated") == ("0" if name == "so many tokens" else None)


@pytest.mark.parametrize("ask", ["binary_data_output", "binary_data"])
def test_tensors_may_follow_the_json_both_ways(
    server: Server, http: httpx.Client, ask: str
) -> None:
    file = png(PICTURE)
    elements = {"text": [b"a cat", "été".encode(), b"", b""],
                "image": [b"", b"", file, URI.encode()]}  # fmt: skip
    tensors, content = [], b""
    for name, column in elements.items():
        packed = b"".join(struct.pack("<I", len(one)) + one for one in column)
        size = {"binary_data_size": len(packed)}
        tensors.append(tensor(name, data=None, shape=[len(column)], parameters=size))
        content += packed
    tensors.insert(1, tensor("instruction", SENTENCE))
    asked: dict[str, Any] = {"parameters": {ask: True}}
    if ask == "binary_data":
        asked = {"outputs": [{"name": "embedding", "parameters": {ask: True}}]}
    head = json.dumps({"inputs": tensors, **asked}).encode()
    headers = {LENGTH: str(len(head)), "content-type": "application/octet-stream"}
    answer = http.post(PATH, content=head + content, headers=headers)
    assert answer.status_code == 200, answer.text
    length = int(answer.headers[LENGTH])
    (output,) = json.loads(answer.content[:length])["outputs"]
    data = answer.content[length:]
    assert output["parameters"] == {"binary_data_size": len(data)}
    inputs = (told(SENTENCE, one) for one in (A, text("été"), IMAGE, IMAGE))
    found = np.frombuffer(data, "<f4").reshape(output["shape"])
    require_vectors(found, expected(server, embeds(*inputs)))


@pytest.mark.parametrize(
    ("path", "version"),
    [("qwen", "lora"), ("qwen/versions/dora", "dora"), ("qwen@canary", "lora"),
     ("qwen%40base", "base"), ("qwen/versions/base", "base")],
)  # fmt: skip
def test_versions_are_named_by_the_path(http: httpx.Client, path: str, version: str) -> None:
    answer = http.post(f"/v2/models/{path}/infer", json={"inputs": [tensor("text", "a")]})
    assert answer.json()["model_version"] == version
    assert http.get(f"/v2/models/{path}/ready").json() == {"name": "qwen", "ready": True}
    described = http.get(f"/v2/models/{path}").json()
    assert (described["name"], described["versions"]) == ("qwen", ["base", "dora", "lora"])
    names = [one["name"] for one in described["inputs"]]
    assert names == ["text", "image", "video", "instruction"]
    assert described["outputs"] == [{"name": "embedding", "datatype": "FP32", "shape": [-1, 128]}]


def test_requests_are_counted_whatever_model_they_name(server: Server, http: httpx.Client) -> None:
    before = server.metric("requests_total", method="/v2/models", code="NOT_FOUND")
    http.get("/v2/models/of-a-caller/ready")
    after = server.metric("requests_total", method="/v2/models", code="NOT_FOUND")
    assert after == before + 1
    http.post(PATH, json={"inputs": [tensor("text", "a")]})
    assert server.metric("requests_total", method="/v2/models/infer", code="OK") > 0
    assert "of-a-caller" not in server.metrics_text()


def test_the_server_is_described(http: httpx.Client) -> None:
    assert http.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert http.get("/v2/", follow_redirects=True).json()["name"] == "vlm2vec-serve"
    assert http.get("/v2/health/live").json() == {"live": True}
    assert http.get("/v2/health/ready").json() == {"ready": True}


TEXT = tensor("text", "a", "b")
BAD: list[tuple[Any, str]] = [
    ([], "body: expected a JSON object"),
    ({}, "inputs: missing"),
    ({"inputs": []}, "inputs: expected a list of tensors"),
    ({"inputs": [TEXT, tensor("texts", "a")]}, "inputs[1].name: expected text, image,"),
    ({"inputs": [TEXT, TEXT]}, "inputs[1].name: text is there twice"),
    ({"inputs": [TEXT | {"datatype": "FP32"}]}, 'inputs[0].datatype: only "BYTES"'),
    ({"inputs": [TEXT | {"shape": [3]}]}, "inputs[0].data: 2 elements; shape says 3"),
    ({"inputs": [TEXT | {"data": [["a", "b"], ["c"]]}]}, "inputs[0].data: 3 elements; shape"),
    ({"inputs": [TEXT | {"shape": [2, 2]}]}, "inputs[0].shape: expected [2] or [2, 1]"),
    ({"inputs": [TEXT | {"shape": [-1]}]}, "inputs[0].shape[0]: expected a whole number, 1"),
    ({"inputs": [TEXT, tensor("image", URI)]}, "inputs[1].shape: expected [2] or [2, 1]"),
    ({"inputs": [tensor("instruction", "a")]}, "inputs: needed: one of text,"),
    ({"inputs": [tensor("text", *["a"] * 2049)]}, "inputs: 2049 rows; max_inputs is 2048"),
    ({"inputs": [tensor("text", "a", 3)]}, "inputs[0].data[1]: expected a string"),
    ({"inputs": [tensor("text", "a", [3])]}, "inputs[0].data[1][0]: expected a string"),
    ({"inputs": [tensor("text", "a", "\ud800")]}, "inputs[0].data[1]: no valid Unicode"),
    ({"inputs": [tensor("text", "a", "")]}, "inputs[0].data[1]: "),
    ({"inputs": [tensor("text", "a", "one two " * 8000)]}, "inputs[0].data[1]: "),
    ({"inputs": [TEXT, tensor("image", URI, "AAAA")]}, "inputs[1].data[1]: no JPEG"),
    ({"inputs": [tensor("image", "http://127.0.0.1/a.png")]}, "inputs[0].data[0]: "),
    ({"inputs": [tensor("instruction", "a", MARK), TEXT]}, "inputs[0].data[1]: holds the place"),
    ({"inputs": [TEXT | {"data": None}]}, "inputs[0].data: needed, or parameters.binary_data_size"),
    ({"inputs": [TEXT], "parameters": {"dimensions": 5000}}, "parameters.dimensions: 5000 are"),
    ({"inputs": [TEXT], "parameters": {"truncate": 9000}}, "parameters.truncate: "),
    ({"inputs": [TEXT], "parameters": {"user": "x" * 257}}, "parameters.user: "),
    ({"inputs": [TEXT], "parameters": {"priority": 1}}, "parameters.priority: expected interact"),
    ({"inputs": [TEXT], "parameters": {"sequence_id": 1}}, "parameters.sequence_id: unknown"),
    ({"inputs": [TEXT], "outputs": [{"name": "logits"}]}, "outputs[0].name: expected embedding"),
    ({"inputs": [TEXT], "outputs": [{"name": "embedding"}] * 2}, "outputs: there is one"),
    ({"inputs": [TEXT], "model_nmae": "a"}, "model_nmae: unknown"),
]  # fmt: skip


@pytest.mark.parametrize(("body", "said"), BAD, ids=lambda item: str(item)[:40])
def test_what_is_wrong_is_said_as_kserve_does(http: httpx.Client, body: Any, said: str) -> None:
    answer = http.post(PATH, content=json.dumps(body))  # httpx would send no half of a pair
    assert answer.status_code == 400
    assert list(answer.json()) == ["error"]
    assert answer.json()["error"].startswith(said), answer.text


@pytest.mark.parametrize(
    ("count", "size", "data", "said"),
    [
        (1, 5, b"\1\0\0\0", "inputs[0].parameters.binary_data_size: 5 bytes are not 1 elements"),
        (1, 4, b"\5\0\0\0", "inputs[0].parameters.binary_data_size: 4 bytes are not 1 elements"),
        (2, 5, b"\1\0\0\0a", "inputs[0].parameters.binary_data_size: 5 bytes are not 2 elements"),
        (1, 5, b"\1\0\0\0aa", "inputs: 1 bytes that follow are of none of them"),
        (1, 5, b"\1\0\0\0\xff", "inputs[0].data[0]: no text in UTF-8"),
        (2**31 - 1, 2**31 - 1, b"", "inputs: 2147483647 rows; max_inputs is 2048"),
    ],
)
def test_faulty_binary_data_are_named(
    http: httpx.Client, count: int, size: int, data: bytes, said: str
) -> None:
    sent = tensor("text", data=None, shape=[count], parameters={"binary_data_size": size})
    head = json.dumps({"inputs": [sent]}).encode()
    answer = http.post(PATH, content=head + data, headers={LENGTH: str(len(head))})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(said), answer.text


@pytest.mark.parametrize("length", ["", "-1", "x", "1000000", "9" * 30])
def test_a_wrong_length_of_the_json_is_named(http: httpx.Client, length: str) -> None:
    answer = http.post(PATH, json={"inputs": [TEXT]}, headers={LENGTH: length})
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(f"{LENGTH}: expected a number up to ")


@pytest.mark.parametrize(
    ("path", "status"),
    [("gwen", 404), ("qwen/versions/none", 404), ("qwen@nothing", 404), ("qwen/stats", 404),
     ("qwen/infer", 405)],
)  # fmt: skip
def test_what_is_not_there_is_said_as_kserve_does(
    http: httpx.Client, path: str, status: int
) -> None:
    answer = http.get(f"/v2/models/{path}")
    assert (answer.status_code, list(answer.json())) == (status, ["error"])
    assert isinstance(answer.json()["error"], str)


def test_nvidias_client(server: Server) -> None:
    triton = pytest.importorskip("tritonclient.http")
    client = triton.InferenceServerClient(server.http_address)
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("qwen", "lora")
    assert not client.is_model_ready("gwen")
    assert client.get_model_metadata("qwen")["outputs"][0]["shape"] == [-1, 128]
    words = triton.InferInput("text", [2], "BYTES")
    words.set_data_from_numpy(np.array(WORDS, object))
    pictures = triton.InferInput("image", [1], "BYTES")
    pictures.set_data_from_numpy(np.array([png(PICTURE)], object))
    vectors = expected(server, embeds(A, B, IMAGE))
    require_vectors(client.infer("qwen", [words]).as_numpy("embedding"), vectors[:2])
    require_vectors(client.infer("qwen", [pictures]).as_numpy("embedding"), vectors[2:])
    with pytest.raises(Exception, match="there are base, dora, lora"):
        client.infer("qwen", [words], model_version="9")


def test_kserves_client(server: Server) -> None:
    kserve = pytest.importorskip("kserve")
    url = f"http://{server.http_address}"

    async def ask(binary: bool) -> Any:
        client = kserve.InferenceRESTClient(kserve.RESTConfig(protocol="v2", timeout=60))
        assert await client.is_server_live(url)
        assert await client.is_server_ready(url)
        assert await client.is_model_ready(url, "qwen")
        words = kserve.InferInput("text", [2], "BYTES")
        words.set_data_from_numpy(np.array(WORDS, object), binary_data=binary)
        request = kserve.InferRequest("qwen", [words], parameters={"binary_data_output": binary})
        return await client.infer(url, request, model_name="qwen")

    for binary in (False, True):
        found = asyncio.run(ask(binary)).outputs[0].as_numpy()
        require_vectors(found, expected(server, embeds(A, B)))
