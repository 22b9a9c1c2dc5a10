"""TLS for gRPC and HTTP, from PEM files that may be replaced while the server runs."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from vlm2vec_service.errors import InvalidInputError, StartError
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.settings import TlsSettings


@dataclass(frozen=True)
class Certificate:
    """The server's certificate: the content of the PEM files, for gRPC, and a context, for HTTP."""

    chain: bytes
    key: bytes
    client_ca: bytes | None
    context: ssl.SSLContext


def follow_certificate(settings: TlsSettings) -> Reloaded[Certificate] | None:
    """Reads the certificate that ``settings`` name; returns None where TLS is off.

    Raises `StartError`, `InvalidInputError`.
    """
    if not settings.tls_certificate:
        if settings.tls_key or settings.tls_client_ca:
            raise StartError("needed with --tls-key or --tls-client-ca", "tls_certificate")
        return None
    if not settings.tls_key:
        raise StartError("needed with --tls-certificate", "tls_key")
    names = (settings.tls_certificate, settings.tls_key, settings.tls_client_ca)
    paths = [Path(name) for name in names if name]
    return Reloaded("tls_certificate", paths, lambda: _read(paths))


def grpc_credentials(certificate: Reloaded[Certificate]) -> grpc.ServerCredentials:
    """Makes gRPC credentials that use the newest certificate for each connection."""
    known = certificate.value

    def changed() -> Any:
        nonlocal known
        if certificate.value is known:
            return None
        known = certificate.value
        return _configuration(known)

    return grpc.dynamic_ssl_server_credentials(
        _configuration(known), changed, require_client_authentication=known.client_ca is not None
    )


def http_context(certificate: Reloaded[Certificate]) -> ssl.SSLContext:
    """Makes a context that hands each connection over to the context of the newest certificate."""

    def newest(connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        connection.context = certificate.value.context

    value = certificate.value
    context = _context(value.client_ca is not None)
    context.sni_callback = newest
    return context


def certificate_names(peer: dict[str, Any] | None) -> tuple[str, ...]:
    """Lists the names in a verified certificate (``SSLSocket.getpeercert``), the subject's last."""
    peer = peer or {}
    common = [v for part in peer.get("subject", ()) for k, v in part if k == "commonName"]
    return (*(value for _, value in peer.get("subjectAltName", ())), *common)


def _configuration(certificate: Certificate) -> Any:
    pairs = [(certificate.key, certificate.chain)]
    return grpc.ssl_server_certificate_configuration(pairs, certificate.client_ca)


def _read(paths: list[Path]) -> Certificate:
    """Reads chain, key and the clients' authorities, and checks that the first two fit together.

    Raises `InvalidInputError`.
    """
    chain, key, *client_ca = (path.read_bytes() for path in paths)
    context = _context(bool(client_ca))
    try:
        context.load_cert_chain(paths[0], paths[1])
        if client_ca:
            context.load_verify_locations(cadata=client_ca[0].decode("ascii"))
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise InvalidInputError(f"{', '.join(map(str, paths))}", f"no use: {error}") from error
    return Certificate(chain, key, client_ca[0] if client_ca else None, context)


def _context(client_certificates: bool) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if client_certificates:
        # A resumed session would not be verified by authorities that are new since.
        context.options |= ssl.OP_NO_TICKET
        context.num_tickets = 0
    # Not CERT_REQUIRED: probes have none, and health may be open. `Access` asks for it.
    context.verify_mode = ssl.CERT_OPTIONAL if client_certificates else ssl.CERT_NONE
    return context
