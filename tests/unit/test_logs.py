"""What a log makes of words that callers choose, and of passwords."""

import json
import logging
import sys
from collections.abc import Callable

import pytest

from vlm2vec_service.logs import MOST_CHARACTERS, JsonFormatter, TextFormatter, one_line

FORGED = "x\n2026-01-01 00:00:00,000 INFO vlm2vec.access: Embed OK 1.0 ms"


def record(message: str, *values: object, **extras: object) -> logging.LogRecord:
    made = logging.LogRecord("vlm2vec.access", logging.INFO, "", 1, message, values, None)
    vars(made).update(extras)
    return made


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain: é 日本 'x'", "plain: é 日本 'x'"),
        ("a\nb\r\nc", "a\\nb\\r\\nc"),
        ("\x1b[31mred\x07\0", "\\x1b[31mred\\x07\\x00"),
        ("\x85 \u2028 \u202e \ud800", "\\x85 \\u2028 \\u202e \\ud800"),
        ("x" * MOST_CHARACTERS, "x" * MOST_CHARACTERS),
        ("x" * (MOST_CHARACTERS + 1), "x" * MOST_CHARACTERS + "..."),
        ("\n" * 10**7, "\\n" * (MOST_CHARACTERS // 2) + "..."),
        ("at postgresql://user:s3cret@host/db", "at postgresql://***@host/db"),
    ],
    ids=range(8),
)
def test_text_becomes_one_line(text: str, expected: str) -> None:
    assert one_line(text) == expected


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()], ids=["text", "json"])
def test_words_of_callers_forge_no_record(formatter: logging.Formatter) -> None:
    line = formatter.format(record("unknown key %s", FORGED, error=FORGED, caller="a\nb"))
    assert "\n" not in line
    assert "x\\n2026" in line.replace("\\\\", "\\")
    long = formatter.format(record("%s", "y" * 10**7, error="z" * 10**7))
    assert len(long) < 3 * MOST_CHARACTERS


@pytest.mark.parametrize(
    ("formatter", "lines_of"),
    [
        (TextFormatter(), lambda text: text.splitlines()[1:]),
        (JsonFormatter(), lambda text: json.loads(text)["traceback"].splitlines()),
    ],
    ids=["text", "json"],
)
def test_tracebacks_forge_none_either(
    formatter: logging.Formatter, lines_of: Callable[[str], list[str]]
) -> None:
    try:
        raise ValueError(FORGED + "\x1b http://user:s3cret@host" + "\n" * 10**5)
    except ValueError:
        failed = record("failed")
        failed.exc_info = sys.exc_info()
    text = formatter.format(failed)
    lines = lines_of(text)
    assert "s3cret" not in text
    assert "\x1b" not in text
    assert 3 < len(lines) < 250
    assert sum(line.lstrip(" |").startswith("2026-01-01") for line in lines) == 1
    if isinstance(formatter, TextFormatter):
        assert all(line.startswith("  | ") for line in lines)


def test_json_keeps_numbers_and_names() -> None:
    values = json.loads(JsonFormatter().format(record("m %d", 1, seconds=0.5, method="Embed")))
    assert (values["message"], values["seconds"], values["method"]) == ("m 1", 0.5, "Embed")
    assert (values["level"], values["logger"]) == ("INFO", "vlm2vec.access")


def test_both_styles_tell_the_same_of_an_access() -> None:
    known: dict[str, object] = {
        "method": "Embed", "code": "OK", "seconds": 0.0012, "request_id": "a b=c",
        "caller": "key:x", "peer": "ipv4:10.0.0.1:5", "verb": None,
        "path": "/vlm2vec.v1.EmbeddingService/Embed",
        "model": "v2", "version": "", "inputs": 3, "tokens": 40, "error": 'no "m"\n',
    }  # fmt: skip
    access = record("%s %s %.1f ms", "Embed", "OK", 1.2, **known)
    text = TextFormatter().format(access)
    assert text.endswith(
        'Embed OK 1.2 ms request_id="a b=c" caller=key:x peer=ipv4:10.0.0.1:5 '
        'path=/vlm2vec.v1.EmbeddingService/Embed model=v2 version="" inputs=3 tokens=40 '
        'error="no \\"m\\"\\\\n"'
    )
    values = json.loads(JsonFormatter().format(access))
    assert {key: values[key] for key in known if known[key] is not None} == {
        key: value if key != "error" else 'no "m"\\n'
        for key, value in known.items()
        if value is not None
    }
    assert "verb" not in values
