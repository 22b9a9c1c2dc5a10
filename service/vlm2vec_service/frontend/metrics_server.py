"""Prometheus metrics: as text, and on a port and a thread of their own, so that a busy loop still
has them."""

import socket
import threading
from collections.abc import Callable, Iterable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import generate_latest

from vlm2vec_service.errors import StartError, UnauthenticatedError
from vlm2vec_service.frontend.auth.authenticator import Authenticator, Credentials
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.frontend.tls import Certificate, certificate_names, http_context
from vlm2vec_service.processes.exposition import gather
from vlm2vec_service.processes.member import Member

App = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]
CERTIFICATE = "vlm2vec.certificate"
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def exposition() -> bytes:
    """Every metric as Prometheus reads it, of type `CONTENT_TYPE`, those of the other front-end
    processes as well. It takes milliseconds: not for the event loop."""
    member = Member.from_environment()
    return gather(member.folder) if member else generate_latest()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    allow_reuse_port = Member.from_environment() is not None


class _ServerV6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = 10

    def get_environ(self) -> dict[str, Any]:
        """The WSGI environment, with the names in the client's certificate if there is TLS."""
        peer: dict[str, Any] = getattr(self.connection, "getpeercert", dict)()
        return super().get_environ() | {CERTIFICATE: certificate_names(peer)}

    def log_message(self, format: str, *args: Any) -> None:
        """Says nothing: a scrape every few seconds is no news."""


def start_metrics(
    address: str, authenticator: Authenticator, certificate: Reloaded[Certificate] | None
) -> None:
    """Serves ``/metrics`` on ``address``, HOST:PORT, in a thread that ends with the process.

    Where metrics are not open to everybody a credential is needed, and TLS is used if there is a
    certificate. Raises `StartError` for an address that cannot be listened on.
    """
    closed = authenticator.required and "metrics" not in authenticator.open
    app = _closed(_answer, authenticator) if closed else _answer
    host, _, port = address.rpartition(":")
    host = host.strip("[]") or "0.0.0.0"
    kind = _ServerV6 if ":" in host else _Server
    try:
        server = make_server(host, int(port), app, kind, _Handler)
    except (OSError, ValueError, OverflowError) as error:
        raise StartError(f"cannot listen on {address}: {error}") from error
    if closed and certificate is not None:
        # The handshake is the handler thread's, so that nobody holds up the others.
        server.socket = http_context(certificate).wrap_socket(
            server.socket, server_side=True, do_handshake_on_connect=False
        )
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


def _answer(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
    start("200 OK", [("content-type", CONTENT_TYPE)])
    return [exposition()]


def _closed(app: App, authenticator: Authenticator) -> App:
    def checked(environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        try:
            authorization = environ.get("HTTP_AUTHORIZATION", "")
            authenticator.identify(Credentials(authorization, environ[CERTIFICATE]))
        except UnauthenticatedError as error:
            start("401 Unauthorized", [("www-authenticate", "Bearer")])
            return [str(error).encode()]
        return app(environ, start)

    return checked
