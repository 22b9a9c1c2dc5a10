"""Settings dataclasses as command-line options: each field a flag and an environment variable."""

from collections.abc import Callable
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from vlm2vec_registry.uri import without_secrets

T = TypeVar("T")


class SettingOption(click.Option):
    """The option of a setting. Its help shows no password, which a default from ``--config`` may
    have in a registry's URI."""

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Returns the option and its help text, as click lays them out."""
        record = super().get_help_record(ctx)
        return record and (record[0], without_secrets(record[1]))


def options(settings: type[Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Adds one option for each field of the dataclass ``settings``.

    The name, type, default and help text are the field's. The environment variable is the
    command's prefix and the name: ``VLM2VEC_EMBED_MAX_TOKENS``.
    """

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        for item in reversed(fields(settings)):
            default = None if item.default is MISSING else item.default
            name = item.name.replace("_", "-")
            command = click.option(
                f"--{name}/--no-{name}" if isinstance(default, bool) else f"--{name}",
                default=default,
                cls=SettingOption,
                show_default=True,
                type=type(default),
                help=item.metadata["help"],
            )(command)
        return command

    return decorate


def take(settings: type[T], values: dict[str, Any]) -> T:
    """Builds ``settings`` from the parsed options, taking its own out of ``values``."""
    return settings(**{item.name: values.pop(item.name) for item in fields(settings)})  # type: ignore[arg-type]
