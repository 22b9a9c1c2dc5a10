"""Flags of the command, each of which may also be given as an environment variable."""

import argparse
import os
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

PREFIX = "VLM2VEC_"
"""What the names of the environment variables begin with."""
Parser: TypeAlias = "argparse.ArgumentParser | argparse._ArgumentGroup"
"""Anything that flags may be added to."""


def add_flag(
    parser: Parser,
    name: str,
    help: str,
    *,
    default: object = None,
    required: bool = False,
    type: Callable[[str], Any] = str,
    metavar: str | None = None,
) -> None:
    """Adds a flag with a value; its default is the environment variable, or else ``default``."""
    given = os.environ.get(variable(name)) or None
    parser.add_argument(
        name,
        type=type,
        # argparse passes a default that is a str through type, as if it had been typed.
        default=default if given is None else given,
        required=required and given is None,
        metavar=metavar,
        help=_help(name, help, default),
    )


def add_texts(parser: Parser, name: str, help: str) -> None:
    """Adds a flag that may be repeated; `texts` reads its values."""
    parser.add_argument(name, action="append", help=_help(name, help, None))


def texts(arguments: argparse.Namespace, name: str) -> list[str]:
    """Returns the values of a flag that may be repeated; in the environment, each is a line."""
    given: list[str] | None = getattr(arguments, name.removeprefix("--"))
    return given or os.environ.get(variable(name), "").splitlines()


def add_switch(parser: Parser, name: str, help: str, default: bool | None = False) -> None:
    """Adds a flag without a value, and its ``--no-`` form; in the environment, it is 1 or 0.

    Raises ValueError for anything else in the environment.
    """
    given = os.environ.get(variable(name), "").lower()
    if given in _WORDS:
        default = _WORDS[given]
    elif given:
        raise ValueError(f"{variable(name)} is {given!r}, neither 1 nor 0")
    parser.add_argument(
        name, action=argparse.BooleanOptionalAction, default=default, help=_help(name, help, None)
    )


def one_of(names: Iterable[str]) -> Callable[[str], str]:
    """Makes a type for `add_flag` that allows one of ``names``, in the environment too."""
    allowed = list(names)

    def parse(value: str) -> str:
        if value not in allowed:
            raise argparse.ArgumentTypeError(f"{value!r} is not one of {', '.join(allowed)}")
        return value

    return parse


def variable(name: str) -> str:
    """Returns the name of the environment variable of a flag."""
    return PREFIX + name.removeprefix("--").replace("-", "_").upper()


_WORDS = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


def _help(name: str, help: str, default: object) -> str:
    shown = "" if default is None else f"; default {default}"
    return f"{help} [{variable(name)}{shown}]".replace("%", "%%")
