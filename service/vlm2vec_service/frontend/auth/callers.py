"""The callers file: one JSON object a line, each a caller with the digest of its key.

    {"name": "search", "prefix": "vlm2vec_Zk3v", "sha256": "9f86d0...", "scopes": ["embed"]}
    {"name": "indexer", "certificate": "spiffe://example.com/indexer", "scopes": ["embed"]}

A line has either ``sha256``, the SHA-256 of an API key in hexadecimal, or ``certificate``, a name
in a client certificate. Keys are 256 random bits, so a plain digest cannot be guessed back.
Optional: ``models``, ``requests_per_second``, ``tokens_per_second``, ``expires`` (a date, the first
day on which it is refused, UTC), ``prefix`` (to find the line of a key; not used). Empty lines and
those that start with # are skipped.
"""

import hashlib
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from vlm2vec_service.errors import InvalidInputError, UnauthenticatedError
from vlm2vec_service.frontend.auth.identity import SCOPES, Identity

PREFIX = "vlm2vec_"
"""What every key starts with, so that scanners for leaked secrets can know one."""
SHOWN = len(PREFIX) + 4
"""How many characters of a key may be shown, to tell keys apart."""
RATES = ("requests_per_second", "tokens_per_second")
KEYS = ("name", "prefix", "sha256", "certificate", "scopes", "models", *RATES, "expires")


@dataclass(frozen=True)
class Entry:
    """A line of the callers file: an identity, and the first day (UTC) on which it is refused."""

    identity: Identity
    expires: date | None

    def check(self) -> Identity:
        """Gives the identity. Raises `UnauthenticatedError` if it has expired."""
        if self.expires and datetime.now(UTC).date() >= self.expires:
            raise UnauthenticatedError("the credential has expired; ask for a new one")
        return self.identity


@dataclass(frozen=True)
class Callers:
    """The entries of a callers file, by digest of the key and by name in the certificate."""

    keys: Mapping[str, Entry]
    certificates: Mapping[str, Entry]

    def by_key(self, key: str) -> Identity:
        """The caller with this API key. Raises `UnauthenticatedError` for an unknown one."""
        # Looked up by digest: how long that takes says nothing of the key.
        entry = self.keys.get(digest(key))
        if entry is None:
            raise UnauthenticatedError("the API key is not known here: wrong, or revoked")
        return entry.check()

    def by_certificate(self, names: Sequence[str]) -> Identity | None:
        """The caller to whom one of a certificate's ``names`` belongs; None if there is none."""
        entry = next((self.certificates[n] for n in names if n in self.certificates), None)
        return entry.check() if entry else None


NOBODY = Callers({}, {})


def digest(key: str) -> str:
    """The SHA-256 of ``key`` in hexadecimal, which is all that the file holds of it."""
    return hashlib.sha256(key.encode(errors="surrogateescape")).hexdigest()


def new_key(name: str, scopes: Sequence[str], **values: Any) -> tuple[str, str]:
    """Makes a new key, and its line for the callers file with the optional fields ``values``.

    Raises `InvalidInputError` for a field that is not good.
    """
    key = PREFIX + secrets.token_urlsafe(32)
    line = {"name": name, "prefix": key[:SHOWN], "sha256": digest(key), "scopes": list(scopes)}
    line |= {field: value for field, value in values.items() if value not in (None, [])}
    _entry(line)
    return key, json.dumps(line)


def read_callers(path: Path) -> Callers:
    """Parses a callers file. Raises `InvalidInputError` naming line and field, `OSError`."""
    keys: dict[str, Entry] = {}
    certificates: dict[str, Entry] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip() or line.lstrip().startswith(b"#"):
            continue
        place = f"{path}:{number}"
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InvalidInputError(place, f"no JSON: {error}") from error
        try:
            entry = _entry(values)
        except InvalidInputError as error:
            raise InvalidInputError(f"{place}: {error.field}", error.problem) from error
        kind, known = ("sha256", keys) if "sha256" in values else ("certificate", certificates)
        if values[kind] in known:
            raise InvalidInputError(f"{place}: {kind}", "another line has the same")
        known[values[kind]] = entry
    return Callers(keys, certificates)


def _entry(values: Any) -> Entry:
    """Checks one line's ``values``. Raises `InvalidInputError`."""
    if not isinstance(values, dict):
        raise InvalidInputError("line", "expected a JSON object")
    if unknown := sorted(set(values) - set(KEYS)):
        raise InvalidInputError(unknown[0], f"unknown; known are {', '.join(KEYS)}")
    name = values.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.@/+-]{1,128}", name):
        raise InvalidInputError("name", "needed: 1 to 128 letters, digits or . @ / + - _")
    sha256, certificate = values.get("sha256"), values.get("certificate")
    if (sha256 is None) == (certificate is None):
        raise InvalidInputError("sha256", "needed, or certificate: exactly one of them")
    if sha256 is not None and not re.fullmatch("[0-9a-f]{64}", str(sha256)):
        raise InvalidInputError("sha256", "expected 64 hexadecimal digits, in lower case")
    if certificate is not None and not (isinstance(certificate, str) and certificate):
        raise InvalidInputError("certificate", "expected a name, as the certificate has it")
    scopes, models = _names(values, "scopes"), _names(values, "models")
    if not scopes or not scopes <= set(SCOPES):
        raise InvalidInputError("scopes", f"needed: some of {', '.join(SCOPES)}")
    for rate in RATES:
        value = values.get(rate, 0)
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value < 1e12:
            raise InvalidInputError(rate, "expected a number, 0 for no limit")
    try:
        expires = date.fromisoformat(values["expires"]) if "expires" in values else None
    except (TypeError, ValueError) as error:
        raise InvalidInputError("expires", "expected a date, as 2030-12-31") from error
    identity = Identity(
        name=f"{'key' if sha256 else 'certificate'}:{name}",
        scopes=scopes,
        models=models,
        requests_per_second=values.get("requests_per_second"),
        tokens_per_second=values.get("tokens_per_second"),
    )
    return Entry(identity, expires)


def _names(values: Mapping[str, Any], field: str) -> frozenset[str]:
    names = values.get(field, [])
    named = isinstance(names, list) and all(isinstance(name, str) and name for name in names)
    if not named or (field in values and not names):
        raise InvalidInputError(field, "expected a list of names")
    return frozenset(names)
