"""TLS over both protocols: client certificates, and files that are replaced under load."""

import base64
import json
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import trustme
from cryptography import x509
from PIL import Image

from tests.e2e.cases import options, png, text
from tests.e2e.server import Server, running_server, wait_until
from vlm2vec.v1 import adapters_pb2, embedding_pb2_grpc
from vlm2vec.v1 import embedding_pb2 as pb

NAME = "indexer.example.com"


@dataclass
class TlsClient:
    """A caller over TLS, with a certificate of its own or without."""

    server: Server
    trusted: bytes
    certificate: trustme.LeafCert | None
    folder: Path

    def credentials(self) -> grpc.ChannelCredentials:
        if self.certificate is None:
            return grpc.ssl_channel_credentials(self.trusted)
        key = self.certificate.private_key_pem.bytes()
        return grpc.ssl_channel_credentials(self.trusted, key, chain(self.certificate))

    def context(self) -> ssl.SSLContext:
        context = ssl.create_default_context(cadata=self.trusted.decode())
        if self.certificate is not None:
            self.certificate.configure_cert(context)
        return context

    def over_grpc(self) -> str:
        """The code that a call on a new connection ends with."""
        own = (("grpc.use_local_subchannel_pool", 1),)
        with grpc.secure_channel(self.server.address, self.credentials(), own) as channel:
            stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
            request = pb.EmbedRequest(options=options(), inputs=[text("a cat")])
            return str(stub.Embed.future(request, timeout=60).code().name)

    def over_http(self, path: str = "/v1/embeddings") -> int:
        """The status that a request on a new connection ends with."""
        with httpx.Client(verify=self.context(), timeout=60) as client:
            url = f"https://{self.server.http_address}{path}"
            if path != "/v1/embeddings":
                return client.get(url).status_code
            return client.post(url, json={"model": "qwen", "input": "a cat"}).status_code

    def serial(self, address: str) -> int:
        """Of the certificate that the server at ``address`` shows."""
        host, _, port = address.rpartition(":")
        context = self.context()
        context.set_alpn_protocols(["h2", "http/1.1"])
        with (
            socket.create_connection((host, int(port)), timeout=30) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            der = wrapped.getpeercert(binary_form=True)
        assert der is not None
        return x509.load_der_x509_certificate(der).serial_number


def chain(certificate: trustme.LeafCert) -> bytes:
    return b"".join(blob.bytes() for blob in certificate.cert_chain_pems)


def serial(certificate: trustme.LeafCert) -> int:
    return x509.load_pem_x509_certificate(certificate.cert_chain_pems[0].bytes()).serial_number


@dataclass
class Secured:
    """A server with TLS that asks for client certificates, and who issues both."""

    server: Server
    folder: Path
    authority: trustme.CA

    def client(self, name: str | None, authority: trustme.CA | None = None) -> TlsClient:
        issued = (authority or self.authority).issue_cert(name) if name else None
        return TlsClient(self.server, self.authority.cert_pem.bytes(), issued, self.folder)

    def replace(self, name: str, content: bytes) -> None:
        """As a mounted secret is: at once."""
        (self.folder / "new").write_bytes(content)
        os.replace(self.folder / "new", self.folder / name)


class PictureStore(BaseHTTPRequestHandler):
    """A store inside the cluster, with one picture; or with a status, if that is the path."""

    picture = png(Image.effect_mandelbrot((84, 56), (-2, -1, 1, 1), 50).convert("RGB"))

    def do_GET(self) -> None:
        status = self.path.removeprefix("/")
        self.send_response(int(status) if status.isdecimal() else 200)
        self.send_header("retry-after", "7")
        self.end_headers()
        self.wfile.write(self.picture)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture(scope="module")
def store() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), PictureStore)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def secured(
    checkpoints: Path, store: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1", "localhost")
    (folder / "tls.crt").write_bytes(chain(own))
    (folder / "tls.key").write_bytes(own.private_key_pem.bytes())
    (folder / "ca.crt").write_bytes(authority.cert_pem.bytes())
    callers = [
        {"name": "indexer", "certificate": NAME, "scopes": ["embed"]},
        {"name": "reader", "certificate": "reader.example.com", "scopes": ["adapters:read"]},
    ]
    (folder / "callers.jsonl").write_text("".join(json.dumps(line) + "\n" for line in callers))
    flags: list[str | Path] = [
        "--model", f"qwen={checkpoints / 'qwen2_vl'}", "--reload-seconds", "0.2",
        "--tls-certificate", folder / "tls.crt", "--tls-key", folder / "tls.key",
        "--tls-client-ca", folder / "ca.crt", "--callers", folder / "callers.jsonl",
        "--log-format", "json", "--without-credential", "health",
        "--fetch-origins", store, "--fetch-private-addresses",
    ]  # fmt: skip
    probe = authority.issue_cert("probe.example.com")
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(), probe.private_key_pem.bytes(), chain(probe)
    )
    with running_server(folder, *flags, credentials=credentials) as server:
        yield Secured(server, folder, authority)


def test_certificates_are_callers(secured: Secured) -> None:
    for name, code, status in (
        (NAME, "OK", 200),
        ("reader.example.com", "PERMISSION_DENIED", 403),
        ("stranger.example.com", "UNAUTHENTICATED", 401),
        # gRPC's handshake needs one; over HTTP health is open to probes that have none.
        (None, "UNAVAILABLE", 401),
    ):
        client = secured.client(name)
        assert (client.over_grpc(), client.over_http()) == (code, status), name
        assert client.over_http("/readyz") == 200
    log = secured.server.log.read_text().splitlines()
    callers = {json.loads(line).get("caller") for line in log if line.startswith("{")}
    assert {"certificate:indexer", "certificate:reader"} <= callers


def test_adapter_scopes_of_certificates(secured: Secured) -> None:
    reader = secured.client("reader.example.com")
    with grpc.secure_channel(secured.server.address, reader.credentials()) as channel:
        stub = type(secured.server.adapters)(channel)
        stub.ListAdapters(adapters_pb2.ListAdaptersRequest())
        with pytest.raises(grpc.RpcError, match="PERMISSION_DENIED"):
            stub.UnloadAdapter(adapters_pb2.UnloadAdapterRequest(model="qwen", version="1"))


def test_closed_metrics_come_over_tls(secured: Secured) -> None:
    url = f"https://{secured.server.metrics_address}/metrics"
    for name, status in (("reader.example.com", 200), ("stranger.example.com", 401), (None, 401)):
        client = secured.client(name)
        assert httpx.get(url, verify=client.context()).status_code == status


def test_allowed_urls_are_fetched(secured: Secured, store: str) -> None:
    url = f"https://{secured.server.http_address}/v1/embeddings"
    data = "data:image/png;base64," + base64.b64encode(PictureStore.picture).decode()
    with httpx.Client(verify=secured.client(NAME).context(), timeout=60) as client:
        items = [{"image_url": image} for image in (f"{store}/a.png", data)]
        answer = client.post(url, json={"input": items})
        assert answer.status_code == 200, answer.text
        fetched, sent = answer.json()["data"]
        assert fetched["embedding"] == pytest.approx(sent["embedding"], abs=1e-5)
        ranking = {"query": {"image_url": f"{store}/a.png"}, "documents": items}
        scores = client.post(url.replace("embeddings", "rerank"), json=ranking).json()["results"]
        assert [result["relevance_score"] for result in scores] == pytest.approx([1, 1], abs=1e-4)
        other = client.post(url, json={"input": {"image_url": "https://example.com/a.png"}})
        failed = {
            status: client.post(url, json={"input": ["a", {"image_url": f"{store}/{status}"}]})
            for status in (404, 429, 500)
        }
    assert (other.status_code, other.json()["error"]["param"]) == (400, "input.image_url")
    assert {answer.json()["error"]["param"] for answer in failed.values()} == {"input[1].image_url"}
    found = {key: (it.status_code, it.headers.get("retry-after")) for key, it in failed.items()}
    assert found == {404: (400, None), 429: (503, "7"), 500: (502, "1")}


def test_certificates_of_others_are_refused(secured: Secured) -> None:
    client = secured.client(NAME, trustme.CA())
    assert client.over_grpc() == "UNAVAILABLE"
    with pytest.raises(httpx.TransportError):
        client.over_http()


def test_plain_text_is_refused(secured: Secured) -> None:
    with grpc.insecure_channel(secured.server.address) as channel:
        stub = embedding_pb2_grpc.EmbeddingServiceStub(channel)
        assert stub.ListModels.future(pb.ListModelsRequest()).code().name == "UNAVAILABLE"
    with pytest.raises(httpx.TransportError):
        httpx.get(f"http://{secured.server.http_address}/healthz")


def test_certificates_are_replaced_under_load(secured: Secured) -> None:
    client = secured.client(NAME)
    addresses = (secured.server.address, secured.server.http_address)
    stop = threading.Event()
    answers: dict[str, list[str | int]] = {"grpc": [], "http": [], "kept": []}
    request = pb.EmbedRequest(options=options(), inputs=[text("a cat")])
    kept = grpc.secure_channel(secured.server.address, client.credentials())
    stub = embedding_pb2_grpc.EmbeddingServiceStub(kept)

    def call(way: str) -> None:
        while not stop.is_set():
            if way == "grpc":
                answers[way].append(client.over_grpc())
            elif way == "http":
                answers[way].append(client.over_http())
            else:
                answers[way].append(str(stub.Embed.future(request, timeout=60).code().name))

    threads = [threading.Thread(target=call, args=[way]) for way in answers]
    for thread in threads:
        thread.start()
    try:
        for _ in range(3):
            new = secured.authority.issue_cert("127.0.0.1", "localhost")
            # For a moment they do not belong together.
            secured.replace("tls.key", new.private_key_pem.bytes())
            stop.wait(0.5)
            secured.replace("tls.crt", chain(new))
            for address in addresses:
                wait_until(lambda a=address: client.serial(a) == serial(new), 30)  # type: ignore[misc]  # noqa: B023
            wanted = {way: len(done) + 2 for way, done in answers.items()}
            wait_until(lambda: all(len(answers[way]) >= wanted[way] for way in answers))  # noqa: B023
    finally:
        stop.set()
        for thread in threads:
            thread.join()
        kept.close()
    assert set(answers["grpc"]) == set(answers["kept"]) == {"OK"}
    assert set(answers["http"]) == {200}


def test_authority_of_clients_is_replaced(secured: Secured) -> None:
    old, other = secured.client(NAME), trustme.CA()
    new = secured.client(NAME, other)
    assert (old.over_grpc(), old.over_http()) == ("OK", 200)
    secured.replace("ca.crt", other.cert_pem.bytes())
    try:
        wait_until(lambda: new.over_grpc() == "OK", 30)
        assert new.over_http() == 200
        assert old.over_grpc() == "UNAVAILABLE"
        with pytest.raises(httpx.TransportError):
            old.over_http()
    finally:
        secured.replace("ca.crt", secured.authority.cert_pem.bytes())
    wait_until(lambda: old.over_grpc() == "OK", 30)


def test_private_key_is_not_logged(secured: Secured) -> None:
    log = secured.server.log.read_text()
    assert "PRIVATE" not in log
    for line in (secured.folder / "tls.key").read_text().splitlines():
        assert line not in log
