"""Fetches media that are named by a URL, or are written out in a data URI."""

import base64
import http.client
import sys
import time
import urllib.request
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from vlm2vec.errors import InvalidInput

_SCHEMES = ("http://", "https://", "data:")
_FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
_PIECE = 1 << 16
"""Bytes that are read before the limits are looked at again."""
_SHOWN = 100
"""Characters of a URL that an error shows."""


@dataclass(frozen=True)
class Limits:
    """How much may be spent on one input before it is sent."""

    message_bytes: int
    """The most bytes of its message, and so of anything that is downloaded for it."""
    fetch_seconds: float = 30.0
    """How long one URL may take."""


UNLIMITED = Limits(sys.maxsize)
"""For an input that is not sent anywhere."""


def is_url(text: str) -> bool:
    """Tells whether a string is a URL that can be fetched, or a data URI, and so no path."""
    return text[:8].lower().startswith(_SCHEMES)


def fetched(url: str, field: str, limits: Limits) -> bytes:
    """Returns what a URL points to, or what a data URI holds.

    Raises `InvalidInput`, naming ``field``, where it cannot be fetched within ``limits``.
    """
    try:
        return _decoded(url) if url[:5].lower() == "data:" else _downloaded(url, limits)
    except (OSError, http.client.HTTPException, ValueError) as error:
        shown = url if len(url) <= _SHOWN else f"{url[:_SHOWN]}..."
        message = f"{field}: cannot fetch {shown!r}: {error or type(error).__name__}"
        raise InvalidInput(message, field=field) from error


def _downloaded(url: str, limits: Limits) -> bytes:
    deadline = time.monotonic() + limits.fetch_seconds
    data = bytearray()
    with _opener().open(url, timeout=limits.fetch_seconds) as answer:
        # A server that sends a byte at a time must not keep us longer than one that sends none.
        while piece := answer.read1(_PIECE):
            data += piece
            if len(data) > limits.message_bytes:
                raise ValueError(f"more than the {limits.message_bytes} bytes of a message")
            if time.monotonic() > deadline:
                raise ValueError(f"it takes more than {limits.fetch_seconds:g} seconds")
    return bytes(data)


def _opener() -> urllib.request.OpenerDirector:
    """Returns an opener of http and https alone: a server could redirect the usual one to FTP."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


def _decoded(uri: str) -> bytes:
    """Decodes a data URI: percent-encoded or base64, of either alphabet, with padding or not."""
    head, comma, written = uri.partition(",")
    if not comma:
        raise ValueError("a data URI is data:TYPE;base64,...")
    data = unquote_to_bytes(written)
    if not head.lower().rstrip().endswith(";base64"):
        return data
    digits = b"".join(data.split()).translate(_FROM_URL_SAFE).rstrip(b"=")
    return base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
