"""Who may do what: scopes of methods, and models that are kept from callers."""

from typing import Any

import grpc
import httpx
import pytest
from grpc_health.v1 import health_pb2

from tests.e2e.auth.guarded import DENIED, OK, UNKNOWN, Guarded
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb

CREDENTIALS = [
    (None, UNKNOWN),
    ("vlm2vec_of-somebody-else", UNKNOWN),
    ("embed", OK),
    ("all", OK),
    ("read", DENIED),
    ("write", DENIED),
    ("other", DENIED),
    ("expired", UNKNOWN),
]


@pytest.mark.parametrize(("credential", "expected"), CREDENTIALS)
def test_embedding_needs_its_scope(guarded: Guarded, credential: str | None, expected: str) -> None:
    assert [way(credential) for way in guarded.ways] == [expected] * 3


def test_models_are_kept_from_callers(guarded: Guarded) -> None:
    # What is not allowed is not told from what does not exist.
    for model, expected in (("other", OK), ("qwen", DENIED), ("nothing", DENIED)):
        assert [way("other", model) for way in guarded.ways] == [expected] * 3
    assert guarded.embed_http("embed", "nothing") == "NOT_FOUND"
    headers = {"authorization": guarded.authorization("other")}
    url = f"http://{guarded.server.http_address}/v1/models"
    assert [m["id"] for m in httpx.get(url, headers=headers).json()["data"]] == ["other"]
    assert httpx.get(f"{url}/qwen", headers=headers).status_code == 403
    listed = guarded.server.adapters.ListAdapters(
        adapters_pb2.ListAdaptersRequest(), metadata=guarded.metadata("other")
    )
    assert not listed.adapters
    request = adapters_pb2.DescribeAdapterRequest(model="qwen", version="1")
    assert guarded.grpc("DescribeAdapter", request, "other") == DENIED


@pytest.mark.parametrize(
    ("method", "request_", "allowed"),
    [
        ("ListAdapters", adapters_pb2.ListAdaptersRequest(), ("read", "all")),
        ("DescribeAdapter",
         adapters_pb2.DescribeAdapterRequest(model="qwen", version="1"), ("read", "all")),
        ("PreloadAdapter",
         adapters_pb2.PreloadAdapterRequest(model="qwen", version="1"), ("write", "all")),
        ("ListModels", pb.ListModelsRequest(), ("embed", "all")),
    ],
)  # fmt: skip
def test_methods_need_their_scope(
    guarded: Guarded, method: str, request_: Any, allowed: tuple[str, ...]
) -> None:
    for credential in ("embed", "read", "write", "all"):
        expected = OK if credential in allowed else DENIED
        assert guarded.grpc(method, request_, credential) == expected, credential
    assert guarded.grpc(method, request_, None) == UNKNOWN


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "", ("read", "all")),
        ("GET", "/qwen/1", ("read", "all")),
        ("POST", "/preload", ("write", "all")),
        ("POST", "/unload", ("write", "all")),
    ],
)
def test_paths_of_adapters_need_their_scope(
    guarded: Guarded, method: str, path: str, allowed: tuple[str, ...]
) -> None:
    url = f"http://{guarded.server.http_address}/v1/adapters{path}"
    for credential in ("embed", "read", "write", "all", None):
        headers = {"authorization": guarded.authorization(credential)} if credential else {}
        answer = httpx.request(
            method, url, headers=headers, json={"model": "qwen", "version": "no such version"}
        )
        found = {403: DENIED, 401: UNKNOWN}.get(answer.status_code, OK)
        expected = OK if credential in allowed else DENIED if credential else UNKNOWN
        assert found == expected, (credential, answer.text)
    headers = {"authorization": guarded.authorization("other")}
    if path == "":
        assert httpx.get(url, headers=headers).json()["data"] == []
    elif method == "GET":
        assert httpx.get(url, headers=headers).status_code == 403


def test_streams_of_changes_need_their_scope(guarded: Guarded) -> None:
    for credential, code in (("embed", DENIED), (None, UNKNOWN)):
        watch = guarded.server.adapters.WatchAdapters(
            adapters_pb2.WatchAdaptersRequest(), metadata=guarded.metadata(credential)
        )
        with pytest.raises(grpc.RpcError) as refused:
            next(iter(watch))
        assert isinstance(refused.value, grpc.Call)
        assert refused.value.code().name == code


def test_what_is_open_and_what_is_not(guarded: Guarded) -> None:
    server = guarded.server
    url, headers = f"http://{server.http_address}", {"authorization": guarded.authorization("read")}
    for path in ("/healthz", "/readyz", "/health", "/startupz", "/v2", "/v2/health/ready"):
        assert httpx.get(url + path).status_code == 200
    for path in ("/", "/static/page.js", "/docs", "/openapi.json", "/nothing"):
        assert httpx.get(url + path).status_code == 401
    page = httpx.get(url + "/openapi.json", headers=headers).json()
    assert page["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert httpx.get(url + "/nothing", headers=headers).status_code == 404
    server.health.Check(health_pb2.HealthCheckRequest())
    for name in ("v1", "v1alpha"):
        method = f"/grpc.reflection.{name}.ServerReflection/ServerReflectionInfo"
        reflect: Any = server.channel.stream_stream(method)
        with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
            list(reflect(iter([b""])))
    for metrics in (f"http://{server.metrics_address}/metrics", f"{url}/metrics"):
        assert httpx.get(metrics).status_code == 401
        assert "vlm2vec_requests_total" in httpx.get(metrics, headers=headers).text
