"""Folders of checkpoints and adapters as commands take them: one that is here, or one of the hub's.

A parameter is only looked at while the command line is parsed; `here` fetches.
"""

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import click

from vlm2vec_registry import hub
from vlm2vec_registry.embedding_config import FILE_NAME, EmbeddingConfig
from vlm2vec_service.errors import StartError

Source = Path | hub.HubId
"""A folder, or what is to be fetched."""
FETCHED = "VLM2VEC_FETCHED"
"""The environment variable with the folders that were fetched, an object by model and files: a
branch may have moved on when the next process of a server starts."""
LINKS = "vlm2vec-{}"
"""The folder that `with_embedding` works in, among the temporary files, by the user's id."""


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


def with_embedding(folder: Path, embedding: EmbeddingConfig) -> Path:
    """Returns a folder with the files of ``folder`` and ``embedding`` as its ``embedding.json``.

    It has links to the files and lies among the temporary files; every process of this user that
    asks for the same gets the same. Raises `StartError` where ``folder`` has an ``embedding.json``
    that says otherwise.
    """
    try:
        own = _unnamed(EmbeddingConfig.read(folder))
    except ValueError as error:
        raise StartError(str(error)) from error
    if own == _unnamed(embedding):
        return folder
    if own != EmbeddingConfig():
        raise StartError(
            f"{folder / FILE_NAME} says otherwise than the settings given for it; leave one out"
        )
    files = sorted(
        path.absolute() for path in folder.iterdir() if path.is_file() and path.name != FILE_NAME
    )
    text = embedding.to_json()
    digest = hashlib.sha256("\0".join([text, *map(str, files)]).encode()).hexdigest()
    parent = Path(tempfile.gettempdir()) / LINKS.format(os.getuid())
    made = parent / f"{digest[:32]}-{folder.name}"
    try:
        parent.mkdir(mode=0o700, exist_ok=True)
        if parent.stat().st_uid != os.getuid() or parent.is_symlink():
            raise StartError(f"{parent} is somebody else's; set TMPDIR to a folder that is yours")
        if not made.exists():
            with tempfile.TemporaryDirectory(dir=parent) as scratch:
                building = Path(scratch) / "links"
                building.mkdir()
                for file in files:
                    (building / file.name).symlink_to(file)
                (building / FILE_NAME).write_text(text)
                with contextlib.suppress(FileExistsError):  # another process may be first
                    building.rename(made)
    except OSError as error:
        raise StartError(f"{made}: {error.strerror}; set TMPDIR to a folder to write to") from error
    return made


def _unnamed(embedding: EmbeddingConfig) -> EmbeddingConfig:
    return replace(embedding, backbone=None, base_model=None, base_revision=None)
