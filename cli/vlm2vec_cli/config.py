"""The configuration file of a command: TOML, whose keys are the names of the command's options."""

import re
import textwrap
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import orjson

from vlm2vec_service.options import grouped

WIDTH = 96
SERVICE = re.compile(r"SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_\w+)?")
"""What Kubernetes puts behind the name of a Service."""


def read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """Reads defaults from a TOML file. Flags and environment variables go before them.

    Each value has to be of its option's type, so that what is wrong is said of the file.
    """
    if path is None:
        return
    try:
        given = tomllib.loads(path.read_text())
    except ValueError as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {option.name: option for option in context.command.params if option.expose_value}
    values = {key.replace("-", "_"): value for key, value in given.items()}
    if unknown := sorted(key for key in given if key.replace("-", "_") not in known):
        raise click.BadParameter(f"{path}: unknown key {', '.join(unknown)}")
    for name, value in values.items():
        option = known[name]
        try:
            _check_type(option, value)
            option.type_cast_value(context, value)
        except click.BadParameter as error:
            key = name.replace("_", "-")
            raise click.BadParameter(f"{path}: {key}: {error.message}") from error
    context.default_map = values


def _check_type(option: click.Parameter, value: Any) -> None:
    """Raises `click.BadParameter` for what a flag could not have said: a number as a text, a
    fraction for a whole number, one text for a list."""
    if option.multiple:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise click.BadParameter(f"{value!r} is not a list of texts")
        return
    wanted: dict[type, str] = {str: "a text in quotes"}
    if isinstance(option.default, bool):
        wanted = {bool: "true or false"}
    elif isinstance(option.default, int):
        wanted = {int: "a whole number"}
    elif isinstance(option.default, float):
        wanted = {float: "a number", int: ""}
    if type(value) not in wanted:
        raise click.BadParameter(f"{value!r} is not {next(iter(wanted.values()))}")


def unknown_variables(context: click.Context, environment: Iterable[str]) -> list[str]:
    """Lists the variables that are named as the command's are, and stand for none of its options.
    Kubernetes names some so, for a Service that has the command's name."""
    prefix = f"{context.auto_envvar_prefix}_"
    known = {f"{prefix}{option.name}".upper() for option in context.command.params}
    return sorted(
        name
        for name in environment
        if name.startswith(prefix)
        and name not in known
        and not SERVICE.fullmatch(name.removeprefix(prefix))
    )


def print_config(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    """Writes a configuration file with every option at its default, in the order of ``--help``."""
    if not asked:
        return
    for heading, options in grouped(context.command.params).items():
        click.echo(f"# {heading}\n")
        for option in options:
            if option.expose_value:
                click.echo(_entry(option))
    context.exit()


def _entry(option: click.Parameter) -> str:
    """Writes an option's help as a comment, and its default as one, too."""
    help = textwrap.wrap(getattr(option, "help", None) or "", WIDTH)
    value = [f"{option.metavar}"] if option.multiple else option.default
    key = (option.name or "").replace("_", "-")
    return "\n".join(f"# {line}" for line in [*help, f"{key} = {orjson.dumps(value).decode()}", ""])
