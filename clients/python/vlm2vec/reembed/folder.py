"""What is on the disk: the parts, the manifest, and at the end the result."""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm2vec.reembed.parts import replace, unfinished

IDENTITY = (
    "input_sha256",
    "rows",
    "part_rows",
    "from_space",
    "space",
    "model",
    "dimension",
    "instruction",
)
"""What two runs must have in common to be one job."""


@dataclass(frozen=True)
class Layout:
    """Where everything is. What is no vectors has a name that readers of parquet folders skip."""

    output: Path
    """What the user asked for: a ``.parquet`` file or a folder."""
    folder: Path
    """Of the parts; with a file, a folder beside it that is gone in the end."""
    ready: Path
    """Says that all is there."""
    errors: Path
    """The rows that failed."""

    @property
    def single(self) -> bool:
        """Whether the parts become one file."""
        return self.folder != self.output

    @property
    def manifest(self) -> Path:
        """Says what the parts are of."""
        return self.folder / "_manifest.json"


def layout(output: Path) -> Layout:
    """The places for an output; raises ValueError where it cannot be."""
    if not output.parent.is_dir():
        raise ValueError(f"{output}: the folder {output.parent} does not exist")
    if output.suffix != ".parquet":
        return Layout(output, output, output / "_ready.json", output / "_errors.jsonl")
    if output.is_dir():
        raise ValueError(f"{output} is a folder: one without .parquet gets part files")
    beside = [
        output.with_name(output.name + end) for end in (".parts", ".ready.json", ".errors.jsonl")
    ]
    return Layout(output, *beside)


@contextlib.contextmanager
def locked(places: Layout) -> Iterator[None]:
    """Makes the folder and keeps others from working in it; the lock ends with the process.

    Raises ValueError if somebody else does, or if something else is there.
    """
    folder = places.folder
    if folder.exists() and not places.manifest.exists() and _visible(folder):
        raise ValueError(f"{folder} has other files: give an --output that does not exist")
    folder.mkdir(exist_ok=True)
    with (folder / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"{folder}: another process is writing here") from error
        yield


def begin(places: Layout, job: Mapping[str, Any]) -> bool:
    """Writes the manifest, or compares it with the one that is there; whether there was one.

    Drops half-written files. Raises ValueError if what is there is of another job.
    """
    for place in {places.folder, places.output, places.ready, places.errors}:
        for partial in unfinished(place):
            partial.unlink()
    if places.manifest.exists():
        _check_same(places.folder, read_json(places.manifest), job)
        return True
    write_json(places.manifest, job)
    return False


def finished(places: Layout, job: Mapping[str, Any]) -> int | None:
    """The number of failed rows, if the output is one file and complete; else None.

    Takes away what is left of its parts. Raises ValueError if the output is of another job.
    """
    if not places.single or not places.output.exists():
        return None
    if not places.ready.exists():
        if places.manifest.exists():
            return None
        raise ValueError(f"{places.output} exists: give another --output, or remove it")
    ready = read_json(places.ready)
    _check_same(places.output, ready, job)
    failed = int(ready["failed"])
    if not failed:
        shutil.rmtree(places.folder, ignore_errors=True)
    return failed


def job_digest(job: Mapping[str, Any]) -> str:
    """Tells one job from another, by `IDENTITY`."""
    identity = json.dumps({key: job[key] for key in IDENTITY}, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; raises ValueError if there is none."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if isinstance(values, dict):
        return values
    raise ValueError(f"{path}: not a JSON object")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes a file that appears whole."""
    replace(path, lambda partial: partial.write_text(json.dumps(values, indent=2) + "\n"))


def _check_same(place: Path, begun: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    for key in IDENTITY:
        if begun.get(key) != job[key]:
            raise ValueError(
                f"{place} was begun with {key} {begun.get(key)!r}, which is now {job[key]!r}: "
                f"{_ADVICE.get(key, 'give the same as then')}, or another --output"
            )


_ADVICE = {
    "input_sha256": "give the corpus as it was then",
    "rows": "give the corpus as it was then",
    "space": "give --to space:... with the space of then",
}


def _visible(folder: Path) -> bool:
    return any(not path.name.startswith(".") for path in folder.iterdir())
