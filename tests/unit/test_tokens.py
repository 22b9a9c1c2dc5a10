"""Sets of keys that JWTs are checked with."""

import base64
import hmac
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from vlm2vec_service.errors import InvalidInputError, UnauthenticatedError
from vlm2vec_service.frontend.auth.tokens import identify, read_keys

RSA = rsa.generate_private_key(65537, 2048)
ED = ed25519.Ed25519PrivateKey.generate()
EC = ec.generate_private_key(ec.SECP256R1())
CLAIMS = {"iss": "i", "aud": "a", "sub": "s", "exp": 2**40}


def jwk(key: Any, **values: str) -> dict[str, Any]:
    kind = (
        jwt.algorithms.RSAAlgorithm if key is RSA
        else jwt.algorithms.ECAlgorithm if key is EC else jwt.algorithms.OKPAlgorithm
    )  # fmt: skip
    return {**json.loads(kind.to_jwk(key.public_key())), **values}


def read(*keys: dict[str, Any]) -> Any:
    return read_keys(json.dumps({"keys": keys}).encode())


def test_kinds_of_keys() -> None:
    keys = read(jwk(RSA, kid="r"), jwk(EC, kid="e"), jwk(ED, kid="d"))
    for key, algorithm, id in ((RSA, "RS256", "r"), (EC, "ES256", "e"), (ED, "EdDSA", "d")):
        token = jwt.encode(CLAIMS, key, algorithm, {"kid": id})
        assert identify(token, keys, "i", "a").name == "jwt:s"
        with pytest.raises(UnauthenticatedError):
            identify(jwt.encode(CLAIMS, key, algorithm, {"kid": "x"}), keys, "i", "a")
        with pytest.raises(UnauthenticatedError):  # not said with which
            identify(jwt.encode(CLAIMS, key, algorithm), keys, "i", "a")


def test_only_key_needs_no_id() -> None:
    assert identify(jwt.encode(CLAIMS, EC, "ES256"), read(jwk(EC)), "i", "a").scopes == set()


def test_public_key_is_no_shared_secret() -> None:
    """The old trick: sign with what everybody knows, and call it HMAC."""
    public = RSA.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    parts = [{"alg": "HS256", "kid": "r"}, CLAIMS]
    signed = b".".join(base64.urlsafe_b64encode(json.dumps(p).encode()).strip(b"=") for p in parts)
    signature = base64.urlsafe_b64encode(hmac.digest(public, signed, "sha256")).strip(b"=")
    with pytest.raises(UnauthenticatedError):
        identify((signed + b"." + signature).decode(), read(jwk(RSA, kid="r")), "i", "a")


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"[]", b'{"keys": []}', b'{"keys": [{}]}', b'{"keys": ["a"]}', b'{"keys": 5}',
     b'{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}', b'{"keys": [{"kty": "RSA", "n": "1"}]}'],
)  # fmt: skip
def test_sets_that_are_none(text: bytes) -> None:
    with pytest.raises(InvalidInputError):
        read_keys(text)


def test_encryption_keys_are_passed_over() -> None:
    with pytest.raises(InvalidInputError):
        read(jwk(RSA, use="enc"))
