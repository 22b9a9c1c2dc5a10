"""Options that several commands share, and how NAME=DIR and pairs are parsed."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, overload

import click

from vlm2vec_cli.presets import base_or_preset
from vlm2vec_service.folders import Source, source

FOLDER = click.Path(exists=True, file_okay=False, path_type=Path)
FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def show_progress(context: click.Context, parameter: click.Parameter, given: bool | None) -> bool:
    """Decides whether bars are shown: as it was ``given``, or else where there is a terminal."""
    return sys.stderr.isatty() if given is None else given


base_option = click.option(
    "--base",
    type=source,
    callback=base_or_preset,
    metavar="DIR",
    help="Checkpoint folder in Hugging Face layout (config.json, safetensors, tokenizer), or a "
    "model of the hub, which is fetched.",
)
preprocess_threads_option = click.option(
    "--preprocess-threads",
    default=4,
    type=click.IntRange(1),
    help="Threads that decode images, video and audio.",
)
progress_option = click.option(
    "--progress/--no-progress",
    default=None,
    show_default="on a terminal",
    callback=show_progress,
    help="Show progress bars.",
)
registry_option = click.option(
    "--registry",
    envvar=["VLM2VEC_REGISTRY", "MLFLOW_TRACKING_URI"],
    show_envvar=True,
    default="~/.local/share/vlm2vec/registry",
    help="An MLflow server's URL, a database URI, or a folder, in which an SQLite store is made.",
)

T = TypeVar("T")
Callback = Callable[[click.Context, click.Parameter, Sequence[str]], dict[tuple[str, str], T]]


def names_and_sources(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, Source]:
    """Parses values NAME=DIR, in which each name may be given once."""
    sources: dict[str, Source] = {}
    for item in items:
        name, _, given = item.partition("=")
        if not (name and given):
            raise click.BadParameter(f"{item!r} is not NAME=DIR")
        if name in sources:
            raise click.BadParameter(f"{name!r} is given twice")
        sources[name] = source(given)
    return sources


@overload
def pairs(separator: str) -> Callback[str]: ...
@overload
def pairs(separator: str, convert: Callable[[str], T]) -> Callback[T]: ...
def pairs(separator: str, convert: Callable[[str], Any] = str) -> Callback[Any]:
    """Makes a callback that parses values LEFT=RIGHT, where LEFT is two names around ``separator``.

    The callback returns what ``convert`` makes of RIGHT by the two names, each pair of which may be
    given once.
    """

    def parse(
        context: click.Context, parameter: click.Parameter, items: Sequence[str]
    ) -> dict[tuple[str, str], Any]:
        pairs: dict[tuple[str, str], Any] = {}
        for item in items:
            left, _, right = item.partition("=")
            name, _, other = left.partition(separator)
            if not (name and other and right):
                raise click.BadParameter(f"{item!r} is not {parameter.metavar}")
            if (name, other) in pairs:
                raise click.BadParameter(f"{left!r} is given twice")
            pairs[name, other] = convert(right)
        return pairs

    return parse
