"""What the registry says, asked by the owner for all members."""

import json
import time
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_registry.errors import MissingError, OutageError
from vlm2vec_registry.files import write_whole
from vlm2vec_registry.snapshot import PublishedVersion, Snapshot

if TYPE_CHECKING:
    from vlm2vec_registry.store import Registry

LOOK_SECONDS = 0.05
"""Between a member's looks at what the owner wrote, and the owner's at whether it is poked."""
Stamp = tuple[int, int]
LONGEST = 10.0
"""Seconds after which a member takes what was said before for what is still true."""


def write_answer(folder: Path, model: str, ask: Callable[[], Snapshot]) -> bool:
    """Asks the registry, and writes for the members what it answered or why it did not; returns
    whether it did."""
    try:
        answer = {"snapshot": ask().to_json()}
    except MissingError as error:
        answer = {"missing": str(error)}
    except Exception as error:  # noqa: BLE001 (whatever it answers, the members say it)
        answer = {"error": str(error) or type(error).__name__}
    write_whole(_path(folder, model), json.dumps(answer))
    return "error" not in answer


class SharedRegistry:
    """A registry as a member sees it: what the owner was told; only files come from the registry
    itself, which ``connect`` opens."""

    def __init__(self, folder: Path, connect: "Callable[[], Registry]") -> None:
        self._folder = folder
        self._connect = connect
        self._seen: dict[str, Stamp] = {}

    def snapshot(self, model: str) -> Snapshot:
        """Waits for what the owner is told next of ``model``, for at most `LONGEST`. Raises
        `MissingError` for a model that is not registered, and `OutageError`."""
        path, end = _path(self._folder, model), time.monotonic() + LONGEST
        nothing_new = (None, self._seen.get(model))
        while (written := stamp(path)) in nothing_new and time.monotonic() < end:
            time.sleep(LOOK_SECONDS)
        if written is None:
            raise OutageError("the registry has not answered yet")
        self._seen[model] = written
        answer = json.loads(path.read_text())
        if "missing" in answer:
            raise MissingError(answer["missing"])
        if "error" in answer:
            raise OutageError(answer["error"])
        return Snapshot.from_json(answer["snapshot"])

    def download(self, version: PublishedVersion, folder: Path, max_bytes: int) -> None:
        """Puts a version's files into ``folder``, as `Registry.download` does."""
        self._connect().download(version, folder, max_bytes)


def poke(folder: Path) -> None:
    """Has the owner ask at once."""
    poke_path(folder).touch()


def poke_path(folder: Path) -> Path:
    """The file that is there when the owner is to ask at once."""
    return folder / "poke"


def stamp(path: Path) -> Stamp | None:
    """Tells a file from the one that is put into its place; None where there is none."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


def _path(folder: Path, model: str) -> Path:
    return folder / f"registry-{sha256(model.encode()).hexdigest()[:16]}.json"
