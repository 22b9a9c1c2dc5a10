"""Settings dataclasses as command-line options: each field a flag and an environment variable."""

from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any, TypeAlias, TypeVar

import click

from vlm2vec_registry.uri import without_secrets
from vlm2vec_service.kinds import KINDS, Number

T = TypeVar("T")
Kind: TypeAlias = "click.ParamType[Any] | type"


class SettingOption(click.Option):
    """The option of a setting, in the ``group`` of those that belong together. Its help shows no
    password, which a default from ``--config`` may have in a registry's URI."""

    def __init__(self, *args: Any, group: str, **values: Any) -> None:
        super().__init__(*args, **values)
        self.group = group

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Returns the option and its help text, as click lays them out."""
        record = super().get_help_record(ctx)
        return record and (record[0], without_secrets(record[1]))


class GroupedCommand(click.Command):
    """A command whose help shows settings under the heading of their group."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Writes all options, those that are no settings first."""
        for heading, options in grouped(self.get_params(ctx)).items():
            records = [option.get_help_record(ctx) for option in options]
            with formatter.section(heading):
                formatter.write_dl([record for record in records if record])


def grouped(parameters: list[click.Parameter]) -> dict[str, list[click.Parameter]]:
    """Sorts parameters by their group, each in its order; those without one come first."""
    groups: dict[str, list[click.Parameter]] = {"Options": []}
    for parameter in parameters:
        groups.setdefault(getattr(parameter, "group", "Options"), []).append(parameter)
    return groups


def options(settings: type[Any]) -> Callable[[Callable[..., T]], Callable[..., T]]:
    """Adds one option for each field of the dataclass ``settings``.

    The name, default and help text are the field's, and so is what a value may be. The environment
    variable is the command's prefix and the name: ``VLM2VEC_EMBED_MAX_TOKENS``. The group is what
    the dataclass's docstring begins with.
    """
    group = (settings.__doc__ or "").replace(";", ".").partition(".")[0]

    def decorate(command: Callable[..., T]) -> Callable[..., T]:
        for item in reversed(fields(settings)):
            default = None if item.default is MISSING else item.default
            name = item.name.replace("_", "-")
            kind = _type_of(item)
            command = click.option(
                f"--{name}/--no-{name}" if isinstance(default, bool) else f"--{name}",
                default=default,
                cls=SettingOption,
                group=group,
                show_default=True,
                type=kind,
                metavar=_unit_of(item, kind),
                help=item.metadata["help"],
            )(command)
        return command

    return decorate


def _type_of(item: "Field[Any]") -> Kind:
    """What a value of the field may be."""
    limits, default = item.metadata, item.default
    if limits["choices"]:
        return click.Choice(limits["choices"], case_sensitive=False)
    if limits["kind"]:
        return KINDS[limits["kind"]]
    if isinstance(default, int) and not isinstance(default, bool):
        return click.IntRange(limits["least"], limits["most"])
    if isinstance(default, float):
        return Number(limits["least"], limits["most"])
    return type(default)


def _unit_of(item: "Field[Any]", kind: Kind) -> str | None:
    """What stands for a value in the help; None leaves it to click."""
    if isinstance(kind, click.IntRange | Number):
        return item.metadata["unit"] or item.name.rpartition("_")[2].upper()
    return item.metadata["unit"] or getattr(kind, "unit", None)


def take(settings: type[T], values: dict[str, Any]) -> T:
    """Builds ``settings`` from the parsed options, taking its own out of ``values``."""
    return settings(**{item.name: values.pop(item.name) for item in fields(settings)})  # type: ignore[arg-type]
