"""Keys from a URL: read, followed, and kept when it cannot be read."""

import asyncio
import contextlib
import json
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jwt
import pytest
import trustme
from cryptography.hazmat.primitives.asymmetric import ec
from prometheus_client import CollectorRegistry

from vlm2vec_service.errors import UnauthenticatedError
from vlm2vec_service.frontend.auth.authenticator import Authenticator, Credentials
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import AuthSettings, TlsSettings


class Issuer(BaseHTTPRequestHandler):
    """Whoever signs tokens, and shows the keys for them."""

    page = b""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(type(self).page)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    server = ThreadingHTTPServer(("127.0.0.1", 0), Issuer)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://localhost:{server.server_port}/keys"
    server.shutdown()
    server.server_close()


def publish(key: ec.EllipticCurvePrivateKey) -> None:
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(key.public_key()))
    Issuer.page = json.dumps({"keys": [{**jwk, "kid": "now"}]}).encode()


def token(key: ec.EllipticCurvePrivateKey) -> Credentials:
    claims = {"iss": "i", "aud": "a", "sub": "s", "exp": time.time() + 600}
    return Credentials(f"Bearer {jwt.encode(claims, key, 'ES256', {'kid': 'now'})}")


def test_keys_are_followed(url: str) -> None:
    old, new = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    settings = AuthSettings(jwt_keys=url, jwt_issuer="i", jwt_audience="a", jwt_url_seconds=0.05)
    authenticator = Authenticator(settings, TlsSettings())
    registry = CollectorRegistry()

    def is_known(key: ec.EllipticCurvePrivateKey) -> bool:
        with contextlib.suppress(UnauthenticatedError):
            return authenticator.identify(token(key)).name == "jwt:s"
        return False

    def failures() -> float:
        labels = {"file": "jwt_keys", "result": "failed"}
        return registry.get_sample_value("vlm2vec_reloads_total", labels) or 0.0

    async def until(condition: Any) -> None:
        async with asyncio.timeout(60):
            while not condition():
                await asyncio.sleep(0.02)

    async def run() -> None:
        assert not is_known(old)  # nothing is good before there are keys
        following = asyncio.create_task(authenticator.follow_url(Metrics(registry)))
        publish(old)
        await until(lambda: is_known(old))
        publish(new)
        await until(lambda: is_known(new) and not is_known(old))
        before = failures()
        Issuer.page = b"{}"
        await until(lambda: failures() > before)
        assert is_known(new)
        following.cancel()

    asyncio.run(run())
