"""MLflow's webhooks: signed notices that something in the registry has changed.

The signature is ``v1,`` and the base64 of HMAC-SHA256 over ``{delivery id}.{timestamp}.{body}``,
https://mlflow.org/docs/latest/ml/webhooks/. A notice is only a reason to look at the registry:
nothing in it is believed but the model's name.
"""

import base64
import hashlib
import hmac
import json
import time
from collections.abc import Mapping

from vlm2vec_registry.errors import RegistryError

SIGNATURE, DELIVERY, TIMESTAMP = (
    "x-mlflow-signature", "x-mlflow-delivery-id", "x-mlflow-timestamp",
)  # fmt: skip
TOLERANCE = 300.0
"""Seconds that a notice may be old, and that its id is remembered."""

MOST_DIGITS = 20


class SignatureError(RegistryError):
    """The notice was not signed with our secret, is too old, or was here before."""


class Verifier:
    """Tells notices signed with ``secret`` from all others, and takes each once."""

    def __init__(self, secret: str) -> None:
        self._secret = secret.encode()
        self._seen: dict[str, float] = {}

    def model(self, headers: Mapping[str, str], body: bytes) -> str:
        """The name of the model that the notice is about; empty if it does not say.

        ``headers`` have names in lower case. Raises `SignatureError`.
        """
        delivery, timestamp = headers.get(DELIVERY, ""), headers.get(TIMESTAMP, "")
        signed = f"{delivery}.{timestamp}.".encode() + body
        digest = hmac.new(self._secret, signed, hashlib.sha256).digest()
        expected = "v1," + base64.b64encode(digest).decode()
        if not hmac.compare_digest(expected.encode(), headers.get(SIGNATURE, "").encode()):
            raise SignatureError("the signature is not ours")
        now = time.time()
        # Python refuses to read numbers of thousands of digits.
        good = timestamp.isdecimal() and len(timestamp) <= MOST_DIGITS
        if not good or abs(now - int(timestamp)) > TOLERANCE:
            raise SignatureError(f"the timestamp is more than {TOLERANCE:.0f} s from now")
        self._seen = {key: at for key, at in self._seen.items() if abs(now - at) <= TOLERANCE}
        if delivery in self._seen:
            raise SignatureError("this delivery was here before")
        self._seen[delivery] = float(timestamp)
        return _model(body)


def _model(body: bytes) -> str:
    try:
        name = json.loads(body)["data"]["name"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""
