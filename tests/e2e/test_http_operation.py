"""HTTP as operators see it: request ids, metrics, cancelled requests, health, the OpenAPI page, and
a fuzzer that reads it."""

import json
import socket
import subprocess
import sys
import uuid
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.e2e.http_calls import embed
from tests.e2e.server import Server, wait_until
from vlm2vec_service.frontend.http.pages import FILES


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
    for path in ("/readyz", "/health"):
        for model in ("", "*", "phi"):
            answer = http.get(path, params={"model": model})
            assert (answer.status_code, answer.json()) == (200, {"status": "ready"})
        assert http.get(path, params={"model": "unknown"}).status_code == 404
    assert http.get("/startupz").json() == {"status": "started"}
    paths = http.get("/openapi.json").json()["paths"]
    expected = {"/v1/embeddings", "/v1/rerank", "/v1/models", "/v1/models/{model}"}
    expected |= {"/v1/score", "/v1/embed", "/v2/embed", "/embed", "/similarity", "/info"}
    expected |= {f"/v1/adapters{end}" for end in ("", "/{model}/{version}", "/preload", "/unload")}
    expected |= {f"/v2{end}" for end in ("", "/health/live", "/health/ready")}
    expected |= {f"/v2/models/{{model}}{end}" for end in ("", "/ready", "/infer")}
    assert set(paths) == expected | {"/healthz", "/readyz", "/health", "/startupz", "/metrics"}
    methods = [method for path in paths.values() for method in path.values()]
    assert not [method for method in methods if "422" in method["responses"]]


def test_pages_run_nothing_but_their_own_files(http: httpx.Client) -> None:
    assert {"/", "/docs", "/static/page.js", "/static/page.css"} <= set(FILES)
    for path in FILES:
        answer = http.get(path)
        assert answer.status_code == 200
        policy = answer.headers["content-security-policy"]
        assert {"default-src 'none'", "script-src 'self'"} <= set(policy.split("; "))
        assert "unsafe" not in policy
        assert "http://www.w3.org/2000/svg" in answer.text or "://" not in answer.text
    assert http.get("/static/index.html").status_code == 404


def test_both_ports_have_the_metrics(server: Server, http: httpx.Client) -> None:
    answer = http.get("/metrics")
    assert answer.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    here, there = (
        {family.name for family in text_string_to_metric_families(text)}
        for text in (answer.text, server.metrics_text())
    )
    assert here == there > {"vlm2vec_requests", "vlm2vec_model_ready"}


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
