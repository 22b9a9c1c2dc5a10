"""Data URIs (RFC 2397) to the bytes that they hold, in all the ways in which people write them."""

import binascii
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Self
from urllib.parse import unquote_to_bytes

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.settings import Limits

PIECE = 262_144
"""Characters that are decoded at once; between two pieces other threads get their turns."""
HEAD = 1024
"""Characters of a media type and its parameters at most."""
SCHEME = "data:"
URL_SAFE = bytes.maketrans(b"-_", b"+/")
"""From the alphabet of URLs and file names to that of base64 itself (RFC 4648)."""
BLANKS = b" \t\n\f\r"
UNUSUAL = b"-_" + BLANKS


@dataclass(frozen=True)
class DataUri:
    """A data URI taken apart: its media type in lower case and its ``parameters``; whether the
    data, which start at ``start`` of ``uri``, are base64 or percent-encoded bytes."""

    uri: str
    type: str
    parameters: Mapping[str, str]
    base64: bool
    start: int

    @classmethod
    def parse(cls, uri: str, field: str) -> Self:
        """Takes ``uri`` apart. Raises `InvalidInputError` naming ``field``."""
        comma = uri.find(",", 0, HEAD)
        if not is_data_uri(uri) or comma < 0:
            raise InvalidInputError(field, "no data URI: write data:TYPE;base64,...")
        type, *parameters = uri[len(SCHEME) : comma].lower().split(";")
        encoded = bool(parameters) and parameters[-1].strip() == "base64"
        named = (parameter.partition("=")[::2] for parameter in parameters)
        values = {name.strip(): value.strip() for name, value in named}
        return cls(uri, type.strip(), values, encoded, comma + 1)

    def read(self, field: str, limits: Limits, limit: str) -> bytes:
        """Decodes the data. Raises `InvalidInputError` naming ``field``; for more bytes than the
        one of ``limits`` that is called ``limit``, before they are decoded."""
        if self.base64:
            return read_base64(self.uri, field, limits, limit, self.start)
        escapes = self.uri.count("%", self.start)
        _check_size(len(self.uri) - self.start - 2 * escapes, field, limits, limit)
        try:
            return b"".join(_octets(self.uri, self.start))
        except ValueError as error:
            raise InvalidInputError(field, "no data URI: its bytes are ASCII or %XX") from error


def is_data_uri(text: str) -> bool:
    """Whether ``text`` starts as a data URI does."""
    return text[: len(SCHEME)].lower() == SCHEME


def read_base64(data: str, field: str, limits: Limits, limit: str, start: int = 0) -> bytes:
    """Decodes base64 of either alphabet from ``start`` of ``data``. It may have line breaks, blanks
    and percent-encoded characters in it, and its padding may be missing.

    Raises `InvalidInputError` naming ``field``; for more bytes than the one of ``limits`` that is
    called ``limit``, before they are decoded.
    """
    if (len(data) - start) * 3 // 4 > getattr(limits, limit):
        # Escapes are three characters for one, which may be a blank and stand for nothing.
        blanks = sum(data.count(blank, start) for blank in BLANKS.decode())
        digits = len(data) - start - blanks - 3 * data.count("%", start)
        _check_size(digits * 3 // 4 - 2, field, limits, limit)
    try:
        return b"".join(_decoded(data, start))
    except ValueError as error:
        raise InvalidInputError(field, f"no base64: {error}") from error


def _check_size(size: int, field: str, limits: Limits, limit: str) -> None:
    if size > (most := getattr(limits, limit)):
        raise InvalidInputError(field, f"{size} bytes are more than {limit}, {most}")


def _octets(data: str, start: int) -> Iterator[bytes]:
    """The bytes of ``data`` in pieces, percent-decoded. Raises `ValueError` if it is no ASCII."""
    rest = ""
    for place in range(start, len(data), PIECE):
        piece = rest + data[place : place + PIECE]
        # An escape that the end of a piece cuts waits for the next one.
        cut = piece.rfind("%", -2) if place + PIECE < len(data) else -1
        piece, rest = (piece[:cut], piece[cut:]) if cut >= 0 else (piece, "")
        yield unquote_to_bytes(piece.encode("ascii"))


def _decoded(data: str, start: int) -> Iterator[bytes]:
    """The bytes that base64 stands for, in pieces. Raises `ValueError`."""
    rest, padding = b"", b""
    for piece in _octets(data, start):
        if any(character in piece for character in UNUSUAL):
            piece = piece.translate(URL_SAFE, BLANKS)
        digits = piece.rstrip(b"=")
        if b"=" in digits or (padding and digits):
            raise ValueError("padding before the end")
        padding += piece[len(digits) :]
        digits = rest + digits
        whole = len(digits) - len(digits) % 4
        rest = digits[whole:]
        yield binascii.a2b_base64(digits[:whole], strict_mode=True)
    lacking = -len(rest) % 4
    if len(padding) > lacking or lacking == 3:
        raise ValueError("characters are missing, or there is too much padding")
    yield binascii.a2b_base64(rest + lacking * b"=", strict_mode=True)
