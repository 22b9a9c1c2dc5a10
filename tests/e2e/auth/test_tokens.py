"""Callers with JSON Web Tokens: which claims, headers and signatures are good."""

import time
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.e2e.auth.guarded import AUDIENCE, DENIED, ISSUER, OK, UNKNOWN, Guarded


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
