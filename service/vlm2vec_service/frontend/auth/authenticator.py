"""From the credentials of a call to the identity of its caller."""

import asyncio
import logging
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm2vec_service.errors import ServeError, StartError, UnauthenticatedError, listed
from vlm2vec_service.frontend.auth import tokens
from vlm2vec_service.frontend.auth.callers import NOBODY, Callers, read_callers
from vlm2vec_service.frontend.auth.identity import ANYONE, SCOPES, Identity
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import AuthSettings, TlsSettings

log = logging.getLogger(__name__)

MAX_JWKS_BYTES = 1_048_576
OPEN = ("health", "reflection", "metrics", "pages")
"""The parts of the server that may be open to callers without a credential."""


@dataclass(frozen=True)
class Credentials:
    """What a call shows of its caller: the ``authorization`` header, and the names in the client's
    verified certificate."""

    authorization: str = ""
    certificate: tuple[str, ...] = ()


class Authenticator:
    """Identifies callers by key, token or certificate, as the settings say.

    ``required`` is whether callers have to show a credential at all; ``open`` has the parts of the
    server for which they need not.
    """

    def __init__(self, settings: AuthSettings, tls: TlsSettings) -> None:
        """Reads the callers file and the keys. Raises `InvalidInputError`, `StartError`."""
        self.settings = settings
        self.required = bool(settings.callers or settings.jwt_keys or tls.tls_client_ca)
        self.client_certificates = bool(tls.tls_client_ca)
        self.open = _chosen(settings.without_credential, "without_credential", OPEN)
        self._certificate_scopes = _chosen(
            settings.certificate_scopes, "certificate_scopes", SCOPES
        )
        if settings.jwt_keys and not (settings.jwt_issuer and settings.jwt_audience):
            raise StartError("needs --jwt-issuer and --jwt-audience as well", "jwt_keys")
        self._callers: Reloaded[Callers] | None = None
        self._jwks: Reloaded[tokens.Keys] | None = None
        self._fetched: tokens.Keys = {}
        if settings.callers:
            path = Path(settings.callers)
            self._callers = Reloaded("callers", [path], lambda: read_callers(path))
        if settings.jwt_keys and not self.jwks_url:
            jwks = Path(settings.jwt_keys)
            self._jwks = Reloaded("jwt_keys", [jwks], lambda: tokens.read_keys(jwks.read_bytes()))

    @property
    def files(self) -> list[Reloaded[Any]]:
        """The files that have to be looked at for changes."""
        return [item for item in (self._callers, self._jwks) if item is not None]

    def identify(self, credentials: Credentials) -> Identity:
        """The identity of a call's caller. Raises `UnauthenticatedError` that says what to send."""
        if not self.required:
            return ANYONE
        if self.client_certificates and not credentials.certificate:
            raise UnauthenticatedError("no client certificate; connect with one")
        if credentials.authorization:
            scheme, _, credential = credentials.authorization.partition(" ")
            if scheme.lower() != "bearer" or not credential.strip():
                raise UnauthenticatedError("send authorization: Bearer KEY")
            return self._bearer(credential.strip())
        if credentials.certificate:
            known = self._callers.value if self._callers else NOBODY
            if identity := known.by_certificate(credentials.certificate):
                return identity
            if self._certificate_scopes:
                name = f"certificate:{credentials.certificate[0]}"
                return Identity(name, self._certificate_scopes)
            raise UnauthenticatedError(
                f"no caller has a certificate for {listed(credentials.certificate)}"
            )
        raise UnauthenticatedError("no credential; send authorization: Bearer KEY")

    def _bearer(self, credential: str) -> Identity:
        # A key has no dots in it, a token has two.
        if self.settings.jwt_keys and credential.count(".") == 2:
            keys = self._jwks.value if self._jwks else self._fetched
            settings = self.settings
            return tokens.identify(credential, keys, settings.jwt_issuer, settings.jwt_audience)
        return (self._callers.value if self._callers else NOBODY).by_key(credential)

    @property
    def jwks_url(self) -> str:
        """The URL of the JWKS; empty where it is a file. Raises `StartError`."""
        source = self.settings.jwt_keys
        if "://" in source and not source.startswith("https://"):
            raise StartError("a URL has to be https", "jwt_keys")
        return source if "://" in source else ""

    async def follow_url(self, metrics: Metrics) -> None:
        """Fetches the keys of a JWKS URL again and again; without a URL it returns at once.

        Until the first fetch succeeds no JWT is accepted.
        """
        while url := self.jwks_url:
            try:
                self._fetched = tokens.read_keys(await asyncio.to_thread(_download, url))
                metrics.reloads.labels("jwt_keys", "ok").inc()
            except (OSError, ValueError, ServeError) as error:
                metrics.reloads.labels("jwt_keys", "failed").inc()
                log.error("jwt_keys: kept as they were: %s: %s", url, error)
            await asyncio.sleep(self.settings.jwt_url_seconds)


def _download(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: bytes = answer.read(MAX_JWKS_BYTES + 1)
    if len(text) > MAX_JWKS_BYTES:
        raise ValueError(f"more than {MAX_JWKS_BYTES} bytes")
    return text


def _chosen(text: str, field: str, known: Sequence[str]) -> frozenset[str]:
    """The words of a comma-separated list. Raises `StartError` for one not ``known``."""
    words = frozenset(word.strip() for word in text.split(",") if word.strip())
    if unknown := words - set(known):
        raise StartError(f"unknown {listed(unknown)}; known are {', '.join(known)}", field)
    return words
