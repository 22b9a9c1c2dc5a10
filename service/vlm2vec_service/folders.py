"""Folders of checkpoints and adapters as commands take them: one that is here, or one of the hub's.

A parameter is only looked at while the command line is parsed; `here` fetches.
"""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import click

from vlm2vec_registry import hub

Source = Path | hub.HubId
"""A folder, or what is to be fetched."""
FETCHED = "VLM2VEC_FETCHED"
"""The environment variable with the folders that were fetched, an object by model and files: a
branch may have moved on when the next process of a server starts."""


def source(given: str) -> Source:
    """Tells what a parameter names: a folder here, or else a model of the hub. It is the type of
    the parameter for click. Raises `click.BadParameter` for what can be neither."""
    folder = Path(given)
    if folder.is_dir():
        return folder
    id = hub.parse_id(given)
    if id is None or folder.exists():
        raise click.BadParameter(
            f"{given!r} is no folder here, and no id of a model on the Hugging Face hub (ORG/NAME "
            "or ORG/NAME@REVISION)"
        )
    return id


def say_so(line: str) -> None:
    """Writes a line to standard error."""
    click.echo(line, err=True)


def here(source: Source, files: Sequence[str], say: Callable[[str], None] = say_so) -> Path:
    """Returns the folder, fetched first if it is the hub's; ``files`` is `hub.BASE` or
    `hub.ADAPTER`, and ``say`` is told what is fetched, and which commit it was.

    Processes that are started from here, with the same parameters, take the same folder. Raises
    `RegistryError`.
    """
    if isinstance(source, Path):
        return source
    fetched = json.loads(os.environ.get(FETCHED, "{}"))
    key = f"{source}: {', '.join(files)}"
    if key not in fetched:
        say(f"{source}: looking for it on the hub")
        fetched[key] = str(hub.fetch(source, files))
        os.environ[FETCHED] = json.dumps(fetched)
    folder = Path(fetched[key])
    say(f"{source}: commit {folder.name}")
    return folder
