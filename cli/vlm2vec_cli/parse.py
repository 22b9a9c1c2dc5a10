"""What several commands read alike: the registry, NAME=DIR, NAME/VERSION=DIR, a file of settings."""

import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import click

registry_option = click.option(
    "--registry",
    envvar=["VLM2VEC_REGISTRY", "MLFLOW_TRACKING_URI"],
    show_envvar=True,
    default="~/.local/share/vlm2vec/registry",
    help="An MLflow server's URL, a database URI, or a folder, in which an SQLite store is made.",
)

Callback = Callable[[click.Context, click.Parameter, Sequence[str]], dict[tuple[str, str], str]]


def names_and_folders(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, Path]:
    """Parses NAME=DIR, each name once."""
    folders: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not (name and folder):
            raise click.BadParameter(f"{item!r} is not NAME=DIR")
        if name in folders:
            raise click.BadParameter(f"{name!r} is given twice")
        folders[name] = Path(folder)
    return folders


def pairs(separator: str) -> Callback:
    """A callback that parses LEFT=RIGHT, where LEFT is one name, or two around ``separator``."""

    def parse(
        context: click.Context, parameter: click.Parameter, items: Sequence[str]
    ) -> dict[tuple[str, str], str]:
        pairs: dict[tuple[str, str], str] = {}
        for item in items:
            left, _, right = item.partition("=")
            name, _, other = left.partition(separator)
            if not (name and other and right):
                raise click.BadParameter(f"{item!r} is not {parameter.metavar}")
            if (name, other) in pairs:
                raise click.BadParameter(f"{left!r} is given twice")
            pairs[name, other] = right
        return pairs

    return parse


def read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """A TOML file whose keys are the options' names; flags and environment variables go first."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except ValueError as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {option.name for option in context.command.params}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    if unknown := sorted(set(values) - known):
        raise click.BadParameter(f"{path}: unknown key {', '.join(unknown)}")
    context.default_map = values
