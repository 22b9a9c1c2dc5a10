"""A server that asks for credentials, and calls to it over both protocols."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import httpx
import jwt
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec

from tests.conftest import adapter_folder
from tests.e2e.cases import options, text
from tests.e2e.server import Server, running_server
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_cli.keys import keys as keys_command
from vlm2vec_service.errors import Code

ISSUER, AUDIENCE = "https://id.example.com", "vlm2vec"
REQUESTS, TOKENS = 20.0, 200.0
"""What the keys ``requests`` and ``tokens`` may use in a second."""
BURST_SECONDS = 2.0
"""For how long a quota may be saved up."""
OK, DENIED, UNKNOWN = "OK", "PERMISSION_DENIED", "UNAUTHENTICATED"
STATUS = {200: OK, 401: UNKNOWN, 403: DENIED, 404: "NOT_FOUND", 429: "RESOURCE_EXHAUSTED"}
"""The gRPC code that each status over HTTP stands for."""


def new_key(*flags: str) -> tuple[str, str]:
    """A key and its line for the file of callers, from ``vlm2vec keys new``."""
    result = CliRunner().invoke(keys_command, ["new", *flags])
    assert result.exit_code == 0, result.output
    return result.stderr.split()[-1], result.stdout


@dataclass
class Guarded:
    """A server that asks for credentials, and the keys that it knows by their names."""

    server: Server
    file: Path
    """The file of callers."""
    keys: dict[str, str]
    signing: ec.EllipticCurvePrivateKey
    """What tokens are signed with."""
    secrets: list[str] = field(default_factory=list)
    """Everything that was sent as a credential."""

    def authorization(self, credential: str) -> str:
        """The header for a key by its name, or for any other credential."""
        value = self.keys.get(credential, credential)
        self.secrets.append(value)
        return f"Bearer {value}"

    def metadata(self, credential: str | None) -> tuple[tuple[str, str], ...]:
        """The same for gRPC; nothing where ``credential`` is None."""
        return (("authorization", self.authorization(credential)),) if credential else ()

    def token(self, headers: dict[str, str] | None = None, **claims: Any) -> str:
        """A JWT with these claims and the usual others; a claim that is None is left out."""
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
        """The code that a unary call ends with."""
        request = pb.EmbedRequest(options=options(model), inputs=[text("a cat")])
        return self.grpc("Embed", request, credential)

    def embed_http(self, credential: str | None, model: str = "qwen") -> str:
        """The code that stands for the status of an answer over HTTP."""
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
        """All ways to embed; each gives the code that a credential and a model end with."""
        return [self.embed_grpc, self.embed_http, self.embed_stream]

    def metrics(self) -> str:
        """What Prometheus would read, with a key that may."""
        headers = {"authorization": self.authorization("read")}
        page = httpx.get(f"http://{self.server.metrics_address}/metrics", headers=headers)
        return page.text

    def assert_no_secret_is_logged(self) -> None:
        """Neither a credential nor what comes behind the part of it that may be shown."""
        log = self.server.log.read_text()
        secrets = {*self.keys.values(), *self.secrets}
        for secret in secrets:
            for part in (secret, secret[12:], secret.rpartition(".")[2]):
                assert len(part) < 8 or part not in log


@contextlib.contextmanager
def running_guarded(checkpoints: Path, folder: Path) -> Iterator[Guarded]:
    """Starts a server with the models ``qwen`` and ``other``, which are the same, and stops it in
    the end. Its callers have keys of every kind; it takes tokens of `Guarded.token`, too."""
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
        "few": new_key("--name", "few", "--tokens-per-second", "1"),
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
