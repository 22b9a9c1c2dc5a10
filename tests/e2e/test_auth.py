"""Who may call, over both protocols: keys, tokens, scopes, models, quotas, and what the log says."""

import contextlib
import json
import os
import queue
import signal
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

from tests.conftest import adapter_folder
from tests.e2e.cases import options, text
from tests.e2e.server import Server, running_server, wait_until
from vlm2vec.v1 import adapters_pb2
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_cli.keys import keys as keys_command
from vlm2vec_service.errors import Code

ISSUER, AUDIENCE = "https://id.example.com", "vlm2vec"
REQUESTS, TOKENS = 20.0, 200.0
"""Rates of the quotas that are measured."""
BURST_SECONDS = 2.0
OK, DENIED, UNKNOWN = "OK", "PERMISSION_DENIED", "UNAUTHENTICATED"
STATUS = {200: OK, 401: UNKNOWN, 403: DENIED, 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}


def new_key(*flags: str) -> tuple[str, str]:
    """A key and its line, from the command."""
    result = CliRunner().invoke(keys_command, ["new", *flags])
    assert result.exit_code == 0, result.output
    return result.stderr.split()[-1], result.stdout


@dataclass
class Guarded:
    """A server that asks for credentials, and those it knows."""

    server: Server
    file: Path
    keys: dict[str, str]
    signing: ec.EllipticCurvePrivateKey
    secrets: list[str] = field(default_factory=list)
    """Whatever was sent as a credential."""

    def authorization(self, credential: str) -> str:
        """The header for a key by its name, or for any other credential."""
        value = self.keys.get(credential, credential)
        self.secrets.append(value)
        return f"Bearer {value}"

    def metadata(self, credential: str | None) -> tuple[tuple[str, str], ...]:
        """The same, for gRPC; nothing for None."""
        return (("authorization", self.authorization(credential)),) if credential else ()

    def token(self, headers: dict[str, str] | None = None, **claims: Any) -> str:
        """A JWT."""
        given = {
            "iss": ISSUER, "aud": AUDIENCE, "sub": "robot", "exp": time.time() + 600,
            "scope": "embed other", **claims,
        }  # fmt: skip
        given = {key: value for key, value in given.items() if value is not None}
        return jwt.encode(given, self.signing, "ES256", headers or {"kid": "one"})

    def grpc(self, method: str, request: Any, credential: str | None) -> str:
        """The code that a call ends with."""
        metadata = self.metadata(credential)
        stub = self.server.embedding if hasattr(self.server.embedding, method) else None
        call = getattr(stub or self.server.adapters, method)
        return str(call.future(request, metadata=metadata, timeout=60).code().name)

    def embed_grpc(self, credential: str | None, model: str = "qwen") -> str:
        request = pb.EmbedRequest(options=options(model), inputs=[text("a cat")])
        return self.grpc("Embed", request, credential)

    def embed_http(self, credential: str | None, model: str = "qwen") -> str:
        headers = {"authorization": self.authorization(credential)} if credential else {}
        answer = httpx.post(
            f"http://{self.server.http_address}/v1/embeddings",
            json={"model": model, "input": "a cat"}, headers=headers, timeout=60,
        )  # fmt: skip
        if answer.status_code == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
        return STATUS[answer.status_code]

    def embed_stream(self, credential: str | None, model: str = "qwen") -> str:
        """The code of the stream, or of its one answer."""
        metadata = self.metadata(credential)
        request = pb.EmbedStreamRequest(id="1", options=options(model), input=text("a cat"))
        answers = self.server.embedding.EmbedStream(iter([request]), metadata=metadata)
        with contextlib.suppress(grpc.RpcError):
            (answer,) = answers
            return Code(answer.error.code).name
        return str(answers.code().name)

    @property
    def ways(self) -> list[Callable[..., str]]:
        return [self.embed_grpc, self.embed_http, self.embed_stream]


@pytest.fixture(scope="module")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("guarded")
    known = {
        "embed": new_key("--name", "embed"),
        "read": new_key("--name", "read", "--scope", "adapters:read"),
        "write": new_key("--name", "write", "--scope", "adapters:write"),
        "all": new_key(
            "--name", "all", "--scope", "embed", "--scope", "adapters:read",
            "--scope", "adapters:write",
        ),
        "other": new_key("--name", "other", "--model", "other", "--scope", "embed",
                         "--scope", "adapters:read"),
        "expired": new_key("--name", "expired", "--expires", "2020-01-01"),
        "revoked": new_key("--name", "revoked"),
        "requests": new_key("--name", "requests", "--requests-per-second", str(REQUESTS)),
        "tokens": new_key("--name", "tokens", "--tokens-per-second", str(TOKENS)),
    }  # fmt: skip
    file = folder / "callers.jsonl"
    file.write_text("# who may call\n\n" + "".join(line for _, line in known.values()))
    signing = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(signing.public_key()))
    jwks = folder / "jwks.json"
    jwks.write_text(json.dumps({"keys": [{**jwk, "kid": "one", "alg": "ES256", "use": "sig"}]}))
    base = checkpoints / "qwen2_vl"
    lora = adapter_folder("qwen2_vl", "lora")
    flags: list[str | Path] = [
        "--model", f"qwen={base}", "--adapter", f"qwen/1={lora}", "--model", f"other={base}",
        "--callers", file, "--jwt-keys", jwks, "--jwt-issuer", ISSUER, "--jwt-audience", AUDIENCE,
        "--reload-seconds", "0.2", "--without-credential", "health", "--log-format", "json",
        "--caller-burst-seconds", str(BURST_SECONDS), "--log-level", "DEBUG",
    ]  # fmt: skip
    with running_server(folder, *flags) as server:
        yield Guarded(server, file, {name: key for name, (key, _) in known.items()}, signing)


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


def test_streams_of_changes_need_their_scope(guarded: Guarded) -> None:
    for credential, code in (("embed", DENIED), (None, UNKNOWN)):
        watch = guarded.server.adapters.WatchAdapters(
            adapters_pb2.WatchAdaptersRequest(), metadata=guarded.metadata(credential)
        )
        with pytest.raises(grpc.RpcError) as refused:
            next(iter(watch))
        assert isinstance(refused.value, grpc.Call)
        assert refused.value.code().name == code


@pytest.mark.parametrize(
    ("headers", "claims", "expected"),
    [
        ({}, {}, OK),
        ({}, {"scope": None, "scp": ["embed"]}, OK),
        ({}, {"aud": [AUDIENCE, "more"]}, OK),
        ({}, {"vlm2vec_models": ["qwen"]}, OK),
        ({}, {"vlm2vec_models": ["other"]}, DENIED),
        ({}, {"vlm2vec_models": []}, UNKNOWN),
        ({}, {"scope": "adapters:read"}, DENIED),
        ({}, {"scope": None}, DENIED),
        ({}, {"exp": time.time() - 3600}, UNKNOWN),
        ({}, {"exp": None}, UNKNOWN),
        ({}, {"nbf": time.time() + 3600}, UNKNOWN),
        ({}, {"iss": "https://id.example.org"}, UNKNOWN),
        ({}, {"aud": "somebody"}, UNKNOWN),
        ({}, {"aud": None}, UNKNOWN),
        ({}, {"sub": None}, UNKNOWN),
        ({}, {"sub": "two\nlines"}, UNKNOWN),
        ({"kid": "two"}, {}, UNKNOWN),
    ],
)
def test_tokens(
    guarded: Guarded, headers: dict[str, str], claims: dict[str, Any], expected: str
) -> None:
    token = guarded.token({"kid": "one", **headers}, **claims)
    assert [way(token) for way in guarded.ways] == [expected] * 3


def test_tokens_of_other_signatures(guarded: Guarded) -> None:
    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "robot", "exp": time.time() + 600,
              "scope": "embed"}  # fmt: skip
    stranger = ec.generate_private_key(ec.SECP256R1())
    good = guarded.token()
    tokens = [
        jwt.encode(claims, stranger, "ES256", {"kid": "one"}),
        jwt.encode(claims, "", "none", {"kid": "one"}),
        jwt.encode(claims, "secret" * 9, "HS256", {"kid": "one"}),
        good[:-4] + ("AAAA" if good[-4:] != "AAAA" else "BBBB"),
        "a.b.c",
        "..",
    ]
    for token in tokens:
        assert [way(token) for way in guarded.ways] == [UNKNOWN] * 3


@pytest.mark.parametrize("value", ["{}", "Basic {}", "Bearer", "Bearer {} {}"])
def test_malformed_authorization(guarded: Guarded, value: str) -> None:
    header = value.format(*[guarded.keys["embed"]] * 2)
    answer = httpx.get(
        f"http://{guarded.server.http_address}/v1/models", headers={"authorization": header}
    )
    assert answer.status_code == 401
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        guarded.server.embedding.ListModels(
            pb.ListModelsRequest(), metadata=(("authorization", header),)
        )


def test_two_credentials_are_none(guarded: Guarded) -> None:
    header = f"Bearer {guarded.keys['all']}"
    pair = (("authorization", header), ("authorization", header))
    url = f"http://{guarded.server.http_address}/v1/models"
    assert httpx.get(url, headers=list(pair)).status_code == 401
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        guarded.server.embedding.ListModels(pb.ListModelsRequest(), metadata=pair)


def test_what_is_open_and_what_is_not(guarded: Guarded) -> None:
    server = guarded.server
    url, headers = f"http://{server.http_address}", {"authorization": guarded.authorization("read")}
    for path in ("/healthz", "/readyz"):
        assert httpx.get(url + path).status_code == 200
    for path in ("/docs", "/openapi.json", "/nothing"):
        assert httpx.get(url + path).status_code == 401
    page = httpx.get(url + "/openapi.json", headers=headers).json()
    assert page["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert httpx.get(url + "/nothing", headers=headers).status_code == 404
    server.health.Check(health_pb2.HealthCheckRequest())
    with pytest.raises(grpc.RpcError, match="UNAUTHENTICATED"):
        ProtoReflectionDescriptorDatabase(server.channel).get_services()
    metrics = f"http://{server.metrics_address}/metrics"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(metrics)
    assert "vlm2vec_requests_total" in httpx.get(metrics, headers=headers).text


def test_file_is_followed(guarded: Guarded) -> None:
    before = guarded.file.read_text()
    assert [way("revoked") for way in guarded.ways] == [OK] * 3
    requests: queue.SimpleQueue[pb.EmbedStreamRequest] = queue.SimpleQueue()
    stream = guarded.server.embedding.EmbedStream(
        iter(requests.get, None), metadata=guarded.metadata("revoked")
    )
    requests.put(pb.EmbedStreamRequest(id="1", options=options(), input=text("a cat")))
    assert next(stream).HasField("embedding")
    lines = [line for line in before.splitlines(True) if '"revoked"' not in line]
    key, line = new_key("--name", "late")
    guarded.file.write_text("".join([*lines, line]))
    for way in guarded.ways:
        wait_until(lambda way=way: way("revoked") == UNKNOWN, 30)  # type: ignore[misc]
        wait_until(lambda way=way: way(key) == OK, 30)  # type: ignore[misc]

    # What goes on since before ends, too: it looks again no more often than the file is read.
    def ask_again() -> None:
        requests.put(pb.EmbedStreamRequest(id="2", options=options(), input=text("a cat")))
        next(stream)

    with pytest.raises(grpc.RpcError, match=UNKNOWN):
        wait_until(ask_again, 30)
    # A file that is no good changes nothing, and is told of.
    guarded.file.write_text("{")
    wait_until(lambda: '"failed"' in metrics(guarded), 30)
    assert [way(key) for way in guarded.ways] == [OK] * 3
    guarded.file.write_text(before)
    wait_until(lambda: guarded.embed_http("revoked") == OK, 30)


def metrics(guarded: Guarded) -> str:
    """The lines on files that were read again."""
    headers = {"authorization": guarded.authorization("read")}
    page = httpx.get(f"http://{guarded.server.metrics_address}/metrics", headers=headers).text
    return "\n".join(line for line in page.splitlines() if "reloads" in line)


# Quotas: what a caller who asks all the time gets, beside what its bucket holds and the clock gives


def test_quotas_hold(guarded: Guarded) -> None:
    with ThreadPoolExecutor(2) as pool:
        requests = pool.submit(requests_served, guarded, 10.0)
        tokens = pool.submit(tokens_served, guarded, 10.0)
        for future, rate in ((requests, REQUESTS), (tokens, TOKENS)):
            served, seconds = future.result()
            assert served == pytest.approx(rate * (BURST_SECONDS + seconds), rel=0.05)


def requests_served(guarded: Guarded, seconds: float) -> tuple[int, float]:
    """Four callers with one key, two over each protocol: requests, and in how many seconds."""
    header = guarded.authorization("requests")
    client = httpx.Client(base_url=f"http://{guarded.server.http_address}", timeout=60)

    def over_http() -> float:
        answer = client.get("/v1/models", headers={"authorization": header})
        if answer.status_code == 200:
            return 0.0
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        return float(answer.headers["retry-after-ms"]) / 1000

    def over_grpc() -> float:
        metadata = (("authorization", header),)
        answer = guarded.server.embedding.ListModels.future(
            pb.ListModelsRequest(), metadata=metadata
        )
        if answer.code() == grpc.StatusCode.OK:
            return 0.0
        assert answer.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        return int(dict(answer.trailing_metadata())["retry-after-ms"]) / 1000

    start = time.monotonic()

    def ask(call: Callable[[], float]) -> int:
        served = 0
        while time.monotonic() < start + seconds:
            wait = call()
            assert wait <= 1 / REQUESTS + 0.001
            served += not wait
            time.sleep(wait)
        return served

    with ThreadPoolExecutor(4) as pool:
        served = sum(pool.map(ask, (over_http, over_grpc) * 2))
    return served, time.monotonic() - start


def tokens_served(guarded: Guarded, seconds: float) -> tuple[int, float]:
    """A stream that never waits by itself: tokens, and in how many seconds."""
    stop = threading.Event()

    def sent() -> Iterator[pb.EmbedStreamRequest]:
        number = 0
        while not stop.is_set():
            number += 1
            words = text("a cat and a dog in two boats on a lake")
            yield pb.EmbedStreamRequest(id=str(number), options=options(), input=words)

    start, tokens = time.monotonic(), 0
    answers = guarded.server.embedding.EmbedStream(sent(), metadata=guarded.metadata("tokens"))
    for answer in answers:
        assert not answer.HasField("error"), answer.error
        tokens += answer.embedding.tokens
        if time.monotonic() > start + seconds:
            break
    stop.set()
    answers.cancel()
    return tokens, time.monotonic() - start


def test_spent_token_quota_refuses_unary_calls(guarded: Guarded) -> None:
    words = "a cat and a dog " * 200
    body = {"model": "qwen", "input": words}
    headers = {"authorization": guarded.authorization("tokens")}
    url = f"http://{guarded.server.http_address}/v1/embeddings"

    def refused() -> bool:
        answer = httpx.post(url, json=body, headers=headers, timeout=60)
        if answer.status_code == 200:
            return False
        assert answer.status_code == 429
        assert "200 tokens a second" in answer.json()["error"]["message"]
        assert int(answer.headers["retry-after-ms"]) > 0
        return True

    wait_until(refused)
    assert guarded.embed_grpc("tokens") == "RESOURCE_EXHAUSTED"


# Last, after everything above


def test_log_names_callers_and_holds_no_secret(guarded: Guarded) -> None:
    for credential in (None, "embed", "read", guarded.token(), guarded.token() + "x"):
        for way in guarded.ways:
            way(credential)
    log = guarded.server.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    callers = {line["caller"] for line in lines if "caller" in line}
    assert {"key:embed", "key:read", "jwt:robot", "ipv4:127.0.0.1"} <= callers
    secrets = {*guarded.keys.values(), *guarded.secrets}
    assert len(secrets) > 10
    for secret in secrets:
        # Nor what comes behind the part that may be shown.
        for part in (secret, secret[12:], secret.rpartition(".")[2]):
            assert len(part) < 8 or part not in log


def test_accepted_requests_are_finished(guarded: Guarded) -> None:
    words = "one two three " * 150
    headers = {"authorization": guarded.authorization("all")}
    url = f"http://{guarded.server.http_address}/v1/embeddings"
    request = pb.EmbedRequest(options=options(), inputs=[text(words)] * 64)

    def in_flight() -> list[str]:
        page = httpx.get(f"http://{guarded.server.metrics_address}/metrics", headers=headers).text
        lines = (line for line in page.splitlines() if "requests_in_flight{" in line)
        return sorted(line.split('"')[1] for line in lines if line.endswith(" 1.0"))

    workers = guarded.server.workers
    with ThreadPoolExecutor(2) as pool:
        for worker in workers:  # until both have been accepted
            os.kill(worker, signal.SIGSTOP)
        body = {"model": "qwen", "input": [words] * 64}
        http = pool.submit(httpx.post, url, json=body, headers=headers, timeout=200)
        call = guarded.server.embedding.Embed.future(request, metadata=guarded.metadata("all"))
        wait_until(lambda: in_flight() == ["/v1/embeddings", "Embed"], pause=0.01)
        guarded.server.process.send_signal(signal.SIGTERM)
        for worker in workers:
            os.kill(worker, signal.SIGCONT)
        assert len(call.result().embeddings) == 64
        assert len(http.result().json()["data"]) == 64
    assert guarded.server.process.wait(90) == 0
