"""JSON that others wrote, read strictly: every complaint names the place, the field and the value.

``adapter_config.json``, ``embedding.json``, a version's tags and the state file all come through
here, so that nothing a publisher writes can raise anything but `FormatError`.
"""

import json
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from vlm2vec_registry.errors import ArtifactError

MAX_BYTES = 4 << 20
"""Of a file of settings; what is larger is none."""
SHOWN = 80
"""Characters of a value that a message shows."""
MAX_DIGITS = 1000
"""Characters of a number in JSON: none that anybody means has more."""

T = TypeVar("T")


class FormatError(ArtifactError, ValueError):
    """A file of settings or a tag does not say what it should; the message names the field."""


def read_object(path: Path) -> dict[str, Any]:
    """Reads the JSON object in the file ``path``. Raises `FormatError`."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{path}: {error.strerror}") from error
    if len(data) > MAX_BYTES:
        raise FormatError(f"{path}: more than {MAX_BYTES} bytes")
    return parse_object(data, str(path))


def parse_object(text: str | bytes, where: str) -> dict[str, Any]:
    """Parses a JSON object that stands ``where``. Raises `FormatError` for what is no JSON (NaN and
    infinities among it), no object, nested too deeply, or has a key twice."""
    try:
        value = loads(text)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{where}: no JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"{where}: expected an object, got {shown(value)}")
    return value


def loads(text: str | bytes, constant: Callable[[str], Any] | None = None) -> Any:
    """Parses JSON. ``constant`` gives the values of NaN, Infinity and -Infinity, which are refused
    without it.

    Raises `ValueError` for what is no JSON, has a key twice or a number of more than `MAX_DIGITS`,
    and `RecursionError` for what is nested too deeply.
    """
    return json.loads(
        text,
        parse_int=lambda digits: int(_short(digits)),
        parse_float=lambda digits: float(_short(digits)),
        parse_constant=constant or _refuse,
        object_pairs_hook=_once,
    )


class Fields:
    """The values of one object, taken out one by one, each checked; `done` refuses what is left.

    ``where`` is the object's place for messages, such as a file; ``prefix`` are the fields around
    it, each with its dot. ``nulls`` takes a value of null for none; without it null is good only
    where the default is None. Every method raises `FormatError`.
    """

    def __init__(self, values: Any, where: str = "", prefix: str = "", nulls: bool = False) -> None:
        self.where = where
        self._prefix = prefix
        self._nulls = nulls
        if not isinstance(values, dict):
            self.fail("", "an object", values)
        self._values = {str(k): v for k, v in values.items() if v is not None or not nulls}
        self._known: list[str] = []

    def fail(self, key: str, expected: str, value: Any) -> NoReturn:
        """Raises `FormatError`: the field should have been as ``expected``, and was ``value``."""
        self._complain(key, f"expected {expected}, got {shown(value)}")

    def any(self, key: str, default: Any = None) -> Any:
        """Takes a value of any type."""
        self._known.append(key)
        return self._values.pop(key, default)

    def flag(self, key: str, default: bool) -> bool:
        """Takes true or false."""
        value: bool = self._of(key, default, lambda v: isinstance(v, bool), "true or false")
        return value

    def text(self, key: str, default: T) -> str | T:
        """Takes a string."""
        value: str | T = self._of(key, default, is_text, "a string")
        return value

    def choice(self, key: str, default: str, choices: Collection[str]) -> str:
        """Takes one of some strings."""
        value = self.any(key, default)
        if not (is_text(value) and value in choices):
            self._complain(key, f"{shown(value)} is not one of {', '.join(choices)}")
        return str(value)

    def count(self, key: str, default: T, most: int = 2**31 - 1) -> int | T:
        """Takes a positive whole number of at most ``most``."""
        expected = f"a whole number from 1 to {most}"
        value: int | T = self._of(key, default, lambda v: is_count(v, most), expected)
        return value

    def number(self, key: str, default: T, least: float, most: float) -> float | T:
        """Takes a finite number from ``least`` to ``most``."""
        expected = f"a number from {least:g} to {most:g}"
        value: float | T = self._of(key, default, lambda v: is_number(v, least, most), expected)
        return value

    def list_of(self, key: str, good: Callable[[Any], bool], expected: str) -> list[Any] | None:
        """Takes a list whose items are all ``good``."""
        value: list[Any] | None = self._of(
            key, None, lambda v: isinstance(v, list) and all(map(good, v)), f"a list of {expected}"
        )
        return value

    def mapping(self, key: str, good: Callable[[Any], bool], expected: str) -> dict[str, Any]:
        """Takes an object whose values are all ``good``; empty if it is missing."""
        value: dict[str, Any] = self._of(key, {}, lambda v: isinstance(v, dict), "an object")
        for name, item in value.items():
            if not good(item):
                self.fail(f"{key}.{shown(name)[1:-1]}", expected, item)
        return value

    def object(self, key: str) -> "Fields | None":
        """Takes an object's own fields; None if it is missing."""
        if key not in self._values:
            self._known.append(key)
            return None
        return Fields(self.any(key), self.where, f"{self._prefix}{key}.", self._nulls)

    def left(self) -> list[str]:
        """The keys that were not taken yet, in order."""
        return sorted(self._values)

    def done(self) -> None:
        """Refuses the keys that were not taken: each of them might change a vector."""
        if self._values:
            unknown = ", ".join(shown(key)[1:-1] for key in self.left())
            known = ", ".join(sorted(self._known))
            self._complain("", f"unknown key {unknown}; known are {known}")

    def _complain(self, key: str, problem: str) -> NoReturn:
        field = f"{self._prefix}{key}".rstrip(".") or ("" if self.where else "the whole")
        raise FormatError(": ".join(part for part in (self.where, field, problem) if part))

    def _of(self, key: str, default: Any, good: Callable[[Any], bool], expected: str) -> Any:
        missing = key not in self._values
        value = self.any(key, default)
        if not (missing or (value is None and default is None) or good(value)):
            self.fail(key, expected, value)
        return value


def is_text(value: Any) -> bool:
    """Whether ``value`` is a string."""
    return isinstance(value, str)


def is_count(value: Any, most: int = 2**31 - 1) -> bool:
    """Whether ``value`` is a whole number from 1 to ``most``."""
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= most


def is_number(value: Any, least: float, most: float) -> bool:
    """Whether ``value`` is a finite number from ``least`` to ``most``."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return least <= value <= most  # NaN is not, and a whole number of any length can be compared


def shown(value: Any) -> str:
    """A value as a message shows it: escaped, and not at any length."""
    try:
        text = ascii(value)
    except RecursionError:
        text = type(value).__name__
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number of JSON")


def _short(digits: str) -> str:
    # How long a number takes grows with the square of its digits.
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"a number of {len(digits)} characters; at most {MAX_DIGITS} are read")
    return digits


def _once(pairs: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {shown(key)} is there twice")
        values[key] = value
    return values
