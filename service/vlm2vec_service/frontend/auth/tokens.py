"""JSON Web Tokens (RFC 7519), checked with the public keys of who issues them (JWKS, RFC 7517)."""

import json
from collections.abc import Mapping
from typing import Any

import jwt

from vlm2vec_service.errors import InvalidInputError, UnauthenticatedError
from vlm2vec_service.frontend.auth.identity import SCOPES, Identity

ALGORITHMS = (
    "RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA",
)  # fmt: skip
"""The signatures that are accepted: those with a private key, as whoever can check a token must not
be able to make one."""
LEEWAY_SECONDS = 30
MAX_SUBJECT = 256
MODELS_CLAIM = "vlm2vec_models"
"""The claim that lists the names of the models that the caller may use; without it all."""

Keys = Mapping[str, jwt.PyJWK]


def read_keys(text: bytes) -> Keys:
    """Reads the signing keys of a JWKS, by their id. Raises `InvalidInputError`."""
    try:
        items = json.loads(text)["keys"]
        keys = [
            jwt.PyJWK.from_dict(item)
            for item in items
            if item.get("kty") != "oct" and item.get("use", "sig") == "sig"
        ]
    except (ValueError, KeyError, TypeError, AttributeError, jwt.PyJWTError) as error:
        raise InvalidInputError("jwks", f"no JSON Web Key Set: {error}") from error
    known = {key.key_id or "": key for key in keys if key.algorithm_name in ALGORITHMS}
    if not known:
        raise InvalidInputError("jwks", f"no key for one of {', '.join(ALGORITHMS)}")
    return known


def identify(token: str, keys: Keys, issuer: str, audience: str) -> Identity:
    """The caller that ``token`` names, with its scopes. Raises `UnauthenticatedError`.

    ``scope`` (RFC 9068: words with spaces between) or ``scp`` holds the scopes; others than ours
    are passed over.
    """
    try:
        id = str(jwt.get_unverified_header(token).get("kid", ""))
        key = keys.get(id)
        if key is None and not id and len(keys) == 1:
            key = next(iter(keys.values()))
        if key is None:
            raise UnauthenticatedError("the token is signed with a key that is not known here")
        claims = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            audience=audience,
            issuer=issuer,
            leeway=LEEWAY_SECONDS,
            options={"require": ["exp", "sub", "aud", "iss"]},
        )
    except jwt.DecodeError as error:
        raise UnauthenticatedError("the token is malformed, or not signed by its issuer") from error
    except jwt.PyJWTError as error:
        raise UnauthenticatedError(f"the token is refused: {error}") from error
    subject, models = claims["sub"], _words(claims.get(MODELS_CLAIM))
    if not subject.isprintable() or not 1 <= len(subject) <= MAX_SUBJECT:
        raise UnauthenticatedError(f"the token's sub is not 1 to {MAX_SUBJECT} printable letters")
    if MODELS_CLAIM in claims and not models:  # no models would mean all of them
        raise UnauthenticatedError(f"the token's {MODELS_CLAIM} is not a list of names")
    scopes = _words(claims.get("scope", claims.get("scp")))
    return Identity(f"jwt:{subject}", scopes & set(SCOPES), models)


def _words(claim: Any) -> frozenset[str]:
    words = claim.split() if isinstance(claim, str) else claim
    return frozenset(map(str, words)) if isinstance(words, list) else frozenset()
