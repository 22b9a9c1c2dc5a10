"""Signed notices from MLflow: ours, fresh, and once."""

import base64
import hashlib
import hmac
import time
from collections.abc import Callable

import pytest

from vlm2vec_registry.webhook import SignatureError, Verifier

BODY = b'{"entity": "model_version_alias", "action": "created", "data": {"name": "v2"}}'


def headers(
    body: bytes = BODY,
    secret: str = "s3cret",
    delivery: str = "1",
    age: float = 0.0,
    timestamp: str = "",
) -> dict[str, str]:
    timestamp = timestamp or str(int(time.time() - age))
    signed = f"{delivery}.{timestamp}.".encode() + body
    digest = base64.b64encode(hmac.new(secret.encode(), signed, hashlib.sha256).digest())
    return {
        "x-mlflow-signature": "v1," + digest.decode(),
        "x-mlflow-delivery-id": delivery,
        "x-mlflow-timestamp": timestamp,
    }


def test_ours_says_which_model() -> None:
    verifier = Verifier("s3cret")
    assert verifier.model(headers(), BODY) == "v2"
    for number, body in enumerate(
        (
            b"", b"[]", b'{"data": 1}', b'{"data": {"name": 1}}', b"\xff", b"[" * 100_000,
            b'{"data": {"name": 1' + b"0" * 5000 + b"}}",
        )
    ):  # fmt: skip
        assert verifier.model(headers(body, delivery=f"other{number}"), body) == ""


# Functions: what is signed when tests are collected is old when they run.
@pytest.mark.parametrize(
    ("given", "body", "problem"),
    [
        (dict, BODY, "signature"),
        (lambda: headers(secret="guess"), BODY, "signature"),
        (headers, BODY.replace(b"v2", b"v3"), "signature"),
        (lambda: headers() | {"x-mlflow-delivery-id": "2"}, BODY, "signature"),
        (lambda: headers() | {"x-mlflow-signature": "v1,\u00e9"}, BODY, "signature"),
        (lambda: headers(age=301), BODY, "timestamp"),
        (lambda: headers(age=-302), BODY, "timestamp"),
        (lambda: headers(timestamp="9" * 5000), BODY, "timestamp"),
        (lambda: headers(timestamp="-1"), BODY, "timestamp"),
        (lambda: headers(timestamp="now"), BODY, "timestamp"),
    ],
)
def test_others_are_refused(given: Callable[[], dict[str, str]], body: bytes, problem: str) -> None:
    with pytest.raises(SignatureError, match=problem):
        Verifier("s3cret").model(given(), body)


def test_each_is_taken_once() -> None:
    verifier = Verifier("s3cret")
    first = headers()
    verifier.model(first, BODY)
    with pytest.raises(SignatureError, match="before"):
        verifier.model(first, BODY)
    verifier.model(headers(delivery="2"), BODY)
