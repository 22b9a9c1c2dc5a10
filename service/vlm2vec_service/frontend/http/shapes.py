"""Shapes of JSON values: each checks a value, and writes the JSON schema of what it accepts.

One object does both, so the OpenAPI page cannot promise what the server refuses. Values are checked
here and not by pydantic because the first error has to end it: pydantic gathers an error for each
bad item, of which a body has room for millions.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self, cast

from vlm2vec_service.errors import InvalidInputError

Schema = dict[str, Any]
NULL: Schema = {"type": "null"}


@dataclass(frozen=True, kw_only=True)
class Shape(ABC):
    """What a JSON value has to look like; ``description`` is shown on the OpenAPI page."""

    description: str = ""

    @abstractmethod
    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` naming the place of the first error, ``field`` or below it."""

    @abstractmethod
    def accepted(self) -> Schema:
        """The JSON schema of the values that `check` accepts, without a description."""

    def schema(self, nullable: bool = False) -> Schema:
        """The JSON schema with the description; where a value is ``nullable``, of null as well."""
        accepted = self.accepted()
        if nullable and accepted:
            accepted = {"anyOf": [*accepted.get("anyOf", [accepted]), NULL]}
        return {**accepted, **({"description": self.description} if self.description else {})}

    def described(self, description: str) -> Self:
        """The same shape, described for the place where it stands."""
        return replace(self, description=description)


@dataclass(frozen=True)
class Text(Shape):
    """A string of valid Unicode."""

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for another type, or half of a surrogate pair."""
        if not isinstance(value, str):
            raise InvalidInputError(field, "expected a string")
        if value.isascii():  # which Python knows without a look at them
            return
        try:
            value.encode()
        except UnicodeEncodeError as error:  # JSON can hold half of a pair
            raise InvalidInputError(field, f"no valid Unicode: {error.reason}") from error

    def accepted(self) -> Schema:
        """The schema of a string."""
        return {"type": "string"}


@dataclass(frozen=True)
class Choice(Shape):
    """One of a few words."""

    words: tuple[str, ...]

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` that lists the words."""
        if value not in self.words:
            raise InvalidInputError(field, f"expected {_either(self.words)}")

    def accepted(self) -> Schema:
        """The schema that enumerates the words."""
        return {"enum": list(self.words)}


@dataclass(frozen=True)
class Only(Shape):
    """One of the ``values`` that a field may have without changing anything; ``why`` is said to who
    wants another."""

    values: tuple[Any, ...]
    why: str

    @property
    def problem(self) -> str:
        """What is wrong with any other value."""
        allowed = " or ".join(map(json.dumps, self.values))
        return f"{f'only {allowed} is' if allowed else 'not'} supported: {self.why}"

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` with the reason."""
        if value not in self.values:
            raise InvalidInputError(field, self.problem)

    def accepted(self) -> Schema:
        """The schema that enumerates the values."""
        return {"enum": list(self.values)}


@dataclass(frozen=True)
class Anything(Shape):
    """Whatever it is."""

    def check(self, value: Any, field: str) -> None:
        """Raises nothing."""

    def accepted(self) -> Schema:
        """The schema of everything."""
        return {}


@dataclass(frozen=True)
class Flag(Shape):
    """True or false."""

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for another type; a number is none."""
        if not isinstance(value, bool):
            raise InvalidInputError(field, "expected true or false")

    def accepted(self) -> Schema:
        """The schema of a boolean."""
        return {"type": "boolean"}


@dataclass(frozen=True)
class Whole(Shape):
    """A whole number of at least ``least``, and of 32 bits at most."""

    least: int = -(2**31)

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for another type, or a number out of range."""
        if not _is_integer(value) or not self.least <= value < 2**31:
            raise InvalidInputError(field, f"expected a whole number, {self.least} or more")

    def accepted(self) -> Schema:
        """The schema of an integer within its range."""
        return {"type": "integer", "minimum": self.least, "maximum": 2**31 - 1}


@dataclass(frozen=True)
class TokenIds(Shape):
    """A list of at least one token id, a uint32 each as in the gRPC API."""

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for an empty list, or for the list as a whole."""
        if not value:
            raise InvalidInputError(field, "the list is empty")
        if not all(_is_integer(item) and 0 <= item < 2**32 for item in value):
            raise InvalidInputError(field, "expected token ids: whole numbers, 0 or more")

    def accepted(self) -> Schema:
        """The schema of a list of integers within their range."""
        item = {"type": "integer", "minimum": 0, "maximum": 2**32 - 1}
        return {"type": "array", "items": item, "minItems": 1}


@dataclass(frozen=True)
class ListOf(Shape):
    """A list of ``item``, ``least`` of them or more; ``expected`` is what errors say of others."""

    item: Shape
    expected: str
    least: int = 0

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for no list, too short a list, or the first bad item."""
        if not isinstance(value, list) or len(value) < self.least:
            raise InvalidInputError(field, f"expected {self.expected}")
        for index, item in enumerate(value):
            self.item.check(item, f"{field}[{index}]")

    def accepted(self) -> Schema:
        """The schema of a list of items."""
        least = {"minItems": self.least} if self.least else {}
        return {"type": "array", "items": self.item.schema(), **least}


@dataclass(frozen=True)
class Object(Shape):
    """An object that has the keys of ``required``, may have the others of ``values``, and no more.

    A key that is not required may be null, which is the same as not there. A whole body, which has
    no field, is checked as the field "".
    """

    values: Mapping[str, Shape]
    required: tuple[str, ...] = ()

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for an unknown key, a missing one, or a bad value."""
        if not isinstance(value, dict):
            raise InvalidInputError(field, "expected an object")
        prefix = f"{field}." if field else ""
        check_keys(value, self.values, prefix)
        for key, shape in self.values.items():
            if value.get(key) is not None:
                shape.check(value[key], prefix + key)
            elif key in self.required:
                raise InvalidInputError(prefix + key, "missing")

    def accepted(self) -> Schema:
        """The schema of an object without additional properties."""
        properties = {
            key: shape.schema(nullable=key not in self.required)
            for key, shape in self.values.items()
        }
        required = {"required": list(self.required)} if self.required else {}
        return {
            "type": "object", "properties": properties, **required, "additionalProperties": False
        }  # fmt: skip


@dataclass(frozen=True)
class Tagged(Shape):
    """One of several objects, told apart by the `Choice` that each has under ``key``."""

    key: str
    variants: tuple[Object, ...]

    @cached_property
    def _by_word(self) -> dict[str, Object]:
        choices = [(cast(Choice, variant.values[self.key]), variant) for variant in self.variants]
        return {word: variant for choice, variant in choices for word in choice.words}

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` that lists the words of ``key``, or that of the variant."""
        word = value.get(self.key) if isinstance(value, dict) else None
        if not isinstance(word, str) or word not in self._by_word:
            raise InvalidInputError(f"{field}.{self.key}", f"expected {_either(self._by_word)}")
        self._by_word[word].check(value, field)

    def accepted(self) -> Schema:
        """The schema of any of the variants."""
        return {"anyOf": [variant.schema() for variant in self.variants]}


@dataclass(frozen=True)
class ByType(Shape):
    """A shape for each of several Python types that a JSON value may have: str, list, dict."""

    shapes: Mapping[type, Shape]
    expected: str

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` for a type that has no shape, or that of the shape."""
        shape = self.shapes.get(type(value))
        if shape is None:
            raise InvalidInputError(field, f"expected {self.expected}")
        shape.check(value, field)

    def accepted(self) -> Schema:
        """The schema of any of the shapes."""
        return {"anyOf": [shape.schema() for shape in self.shapes.values()]}


@dataclass(frozen=True)
class OneOrMany(Shape):
    """A value of ``one``, or a list of such, where a list of token ids is one value."""

    one: ByType
    many: ListOf

    def is_many(self, value: Any) -> bool:
        """Whether ``value`` is checked as a list of values: it does not start with a token id."""
        return isinstance(value, list) and not (value and _is_integer(value[0]))

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` of ``many`` or of ``one``."""
        (self.many if self.is_many(value) else self.one).check(value, field)

    def accepted(self) -> Schema:
        """The schema of ``one`` or of ``many``."""
        return {"anyOf": [*self.one.accepted()["anyOf"], self.many.schema()]}


@dataclass(frozen=True)
class Narrowed(Shape):
    """A value of ``wide`` that has to be of ``narrow`` as well; else ``problem`` is the error."""

    wide: Shape
    narrow: Shape
    problem: str

    def check(self, value: Any, field: str) -> None:
        """Raises `InvalidInputError` of ``wide``, or else with ``problem``."""
        self.wide.check(value, field)
        try:
            self.narrow.check(value, field)
        except InvalidInputError as error:
            raise InvalidInputError(field, self.problem) from error

    def accepted(self) -> Schema:
        """The schema of ``narrow``."""
        return self.narrow.accepted()


def check_keys(values: Mapping[str, Any], known: Collection[str], prefix: str = "") -> None:
    """Raises `InvalidInputError` for the first key that is not ``known``, whose field is the key
    behind ``prefix``."""
    for key in values:
        if key not in known:
            raise InvalidInputError(f"{prefix}{key[:99]}", f"unknown; known are {', '.join(known)}")


def _is_integer(value: Any) -> bool:
    """Whether a JSON value is a whole number; True and False are none."""
    return isinstance(value, int) and not isinstance(value, bool)


def _either(words: Mapping[str, Any] | tuple[str, ...]) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else last
