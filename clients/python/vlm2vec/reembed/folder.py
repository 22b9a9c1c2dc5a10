"""The files of a run on the disk: the parts, the manifest, and at the end the result."""

import contextlib
import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vlm2vec.files import unfinished, whole

IDENTITY = (
    "input_sha256",
    "rows",
    "part_rows",
    "from_space",
    "space",
    "model",
    "dimension",
    "instruction",
    "truncate",
)
"""The keys of the manifest in which two runs have to agree to be one job, or which both lack."""


@dataclass(frozen=True)
class Layout:
    """The paths of the files that a run writes.

    Files without vectors have names that readers of parquet folders skip.
    """

    output: Path
    """What the user asked for: a ``.parquet`` file or a folder."""
    folder: Path
    """The folder of the part files: the output, or one beside the file that is gone in the end."""
    ready: Path
    """The file that is written last, and says that all is there."""
    errors: Path
    """The file that lists the rows that failed."""

    @property
    def single(self) -> bool:
        """Whether the parts become one file at the end."""
        return self.folder != self.output

    @property
    def manifest(self) -> Path:
        """The file that says which job the parts are of."""
        return self.folder / "_manifest.json"


def layout(output: Path) -> Layout:
    """Returns the paths for an output; raises ValueError where it cannot be written."""
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
    """Makes the folder of the parts, and locks it until the block or the process ends.

    Raises ValueError if another process has it locked, or if it holds files of something else.
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
    """Writes the manifest, or compares ``job`` with the one that is there.

    Returns whether there was one. Deletes files that were left half written. Raises ValueError
    if what is there is of another job.
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
    """Returns the number of failed rows if the output is one file and complete, otherwise None.

    Deletes what is left of its parts if no row failed. Raises ValueError if the output is of
    another job.
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
    """Returns a hash of the values of `IDENTITY`, by which one job is told from another."""
    identity = json.dumps({key: job[key] for key in IDENTITY if key in job}, sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Reads the JSON object in a file; raises ValueError if it holds anything else."""
    try:
        values = json.loads(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON: {error}") from error
    if isinstance(values, dict):
        return values
    raise ValueError(f"{path}: not a JSON object")


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Writes ``values`` as a JSON object to a file, which is there whole or not at all."""
    with whole(path) as partial:
        partial.write_text(json.dumps(values, indent=2) + "\n")


def _check_same(place: Path, begun: Mapping[str, Any], job: Mapping[str, Any]) -> None:
    for key in IDENTITY:
        if begun.get(key) != job.get(key):
            raise ValueError(
                f"{place} was begun with {key} {begun.get(key)!r}, which is now {job.get(key)!r}: "
                f"{_ADVICE.get(key, 'give the same as then')}, or another --output"
            )


_ADVICE = {
    "input_sha256": "give the corpus as it was then",
    "rows": "give the corpus as it was then",
    "space": "give --to space:... with the space of then",
}


def _visible(folder: Path) -> bool:
    return any(not path.name.startswith(".") for path in folder.iterdir())
