"""Logging to standard error: text for people, JSON for machines. Never a payload or a secret.

What a caller sends may get into a message: a JSON key, a model's name. So whatever is logged, in
either style, passes through `one_line`.
"""

import json
import logging
import re
import time
from collections.abc import Iterator
from typing import Any

from vlm2vec_registry.uri import without_secrets

TOLD = ("method", "code", "seconds")
"""Of an access, what its message says as well."""
EXTRAS = (
    *TOLD, "request_id", "caller", "peer", "verb", "path", "model", "version", "inputs", "tokens",
    "error",
)  # fmt: skip
WORD = re.compile(r"[^\s\"=]+")
MOST_CHARACTERS = 2000
"""Of a message, of a value beside it, and of a line of a traceback."""
MOST_LINES = 200
"""Of a traceback."""


def one_line(text: str) -> str:
    """Returns ``text`` as a log shows it: without passwords of URIs, with escapes for line breaks,
    control characters and whatever else is not printable, and cut to `MOST_CHARACTERS`."""
    # Looked at a little beyond the cut, where the end of a password may be.
    shown = without_secrets(text[: 2 * MOST_CHARACTERS])
    shown += text[2 * MOST_CHARACTERS : 2 * MOST_CHARACTERS + 1]
    if not shown.isprintable():
        escapes = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
        shown = "".join(escapes)
    return shown if len(shown) <= MOST_CHARACTERS else f"{shown[:MOST_CHARACTERS]}..."


class TextFormatter(logging.Formatter):
    """One line for each record; the lines of a traceback are marked, so that none of them can pass
    for a record."""

    def format(self, record: logging.LogRecord) -> str:
        """Writes the time, the level, the logger and the message, and of an access what else is
        known, as ``key=value``."""
        words = [one_line(record.getMessage())]
        words += [f"{key}={_word(value)}" for key, value in _extras(record) if key not in TOLD]
        line = " ".join(words)
        lines = [f"{self.formatTime(record)} {record.levelname} {record.name}: {line}"]
        return "\n".join([*lines, *(f"  | {line}" for line in _traceback(self, record))])


class JsonFormatter(logging.Formatter):
    """One object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """``time`` (UTC), ``level``, ``logger``, ``message``, and of an access what is known."""
        values = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": one_line(record.getMessage()),
        }
        values |= _extras(record)
        if record.exc_info:
            values["traceback"] = "\n".join(_traceback(self, record))
        return json.dumps(values)


def _extras(record: logging.LogRecord) -> Iterator[tuple[str, Any]]:
    """What is known of an access, in the order of `EXTRAS`."""
    for key in EXTRAS:
        value = getattr(record, key, None)
        if value is not None:
            yield key, one_line(value) if isinstance(value, str) else value


def _word(value: Any) -> str:
    """A value as one word, in quotes where it has none or several."""
    text = str(value)
    if WORD.fullmatch(text):
        return text
    quoted = json.dumps(text, ensure_ascii=False)
    if len(quoted) <= MOST_CHARACTERS:
        return quoted
    # Quotes double what is escaped already.
    return json.dumps(f"{text[: MOST_CHARACTERS // 2]}...", ensure_ascii=False)


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> list[str]:
    """The lines of the record's traceback, of a long one those of both ends; none without one."""
    if not record.exc_info:
        return []
    lines = formatter.formatException(record.exc_info).splitlines()
    if len(lines) > MOST_LINES:
        lines = [*lines[: MOST_LINES // 2], "...", *lines[-MOST_LINES // 2 :]]
    return [one_line(line) for line in lines]


def configure(level: str, style: str) -> None:
    """Sets the root logger up."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # Its own report of a broken connection, which the caller sees anyway.
    logging.getLogger("grpc._cython.cygrpc").setLevel(logging.CRITICAL)
