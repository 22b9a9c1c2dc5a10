"""Data URIs (RFC 2397) to the bytes that they hold."""

import base64

from vlm2vec_service.errors import InvalidInputError

PIECE = 262_144
"""Characters that are decoded at once; a multiple of four."""


def read_data_uri(uri: str, field: str) -> bytes:
    """Decodes ``data:TYPE;base64,...``; TYPE may be left out and is not looked at.

    Raises `InvalidInputError` naming ``field``.
    """
    comma = uri.find(",")
    if not uri.startswith("data:") or not uri.endswith(";base64", 0, max(comma, 0)):
        raise InvalidInputError(field, "a data URI must be base64: data:TYPE;base64,...")
    return read_base64(uri, field, comma + 1)


def read_base64(data: str, field: str, start: int = 0) -> bytes:
    """Decodes base64 (RFC 4648) with its padding, from ``start``, in pieces between which other
    threads get their turns. Raises `InvalidInputError` naming ``field``."""
    try:
        if 0 <= data.find("=", start) < len(data) - 2:
            raise ValueError("padding before the end")
        pieces = (data[place : place + PIECE] for place in range(start, len(data), PIECE))
        return b"".join(base64.b64decode(piece, validate=True) for piece in pieces)
    except ValueError as error:
        raise InvalidInputError(field, f"no base64: {error}") from error
