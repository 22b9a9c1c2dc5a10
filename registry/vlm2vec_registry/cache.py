"""Keeps artifacts on disk, by their contents.

Several processes may share a folder, and any of them may be killed at any moment.

    FOLDER/objects/KEY/      the files of one artifact, whole or not there
    FOLDER/objects/KEY.lock  held shared by every process that serves it
    FOLDER/incoming/         downloads under way

A kill leaves at most a folder in ``incoming``, which is removed when it is an hour old.
"""

import contextlib
import fcntl
import logging
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

from vlm2vec_registry import artifact
from vlm2vec_registry.errors import ArtifactError, OutageError
from vlm2vec_registry.files import sync

log = logging.getLogger(__name__)

STALE_SECONDS = 3600.0

Fetch = Callable[[Path], None]
"""Puts the files of an artifact into the empty folder that it is given."""


class Cache:
    """The cache in ``folder``; of what no process serves it keeps at most ``max_bytes``."""

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder = folder
        self.max_bytes = max_bytes
        self._objects = folder / "objects"
        self._incoming = folder / "incoming"
        self._make_folders()
        self._held: dict[str, IO[bytes]] = {}

    def get(self, digests: dict[str, str], fetch: Fetch) -> Path:
        """Finds the folder with the artifact of these ``digests``; fetches or verifies it first.

        It stays until `release`, whatever other processes do. Raises `ArtifactError` where the
        bytes fetched are not those, `OutageError` where the disk does not take them, and what
        ``fetch`` raises.
        """
        key = artifact.key_of(digests)
        folder = self._objects / key
        try:
            self._hold(key)
            if folder.exists():
                try:
                    artifact.verify(folder, digests)
                except ArtifactError:
                    # The disk's fault, or somebody's hand: another copy is at the registry.
                    self._discard(folder)
            if not folder.exists():
                self._fetch(folder, digests, fetch)
            with contextlib.suppress(OSError):  # on a disk that only gives, what is there is good
                os.utime(folder)
        except OSError as error:
            self.release(digests)
            raise OutageError(f"{self.folder}: {error}") from error
        except BaseException:
            self.release(digests)
            raise
        try:
            self._evict()
        except OSError as error:
            log.warning("%s: what is not needed could not be removed: %s", self.folder, error)
        return folder

    def release(self, digests: dict[str, str]) -> None:
        """Gives the artifact up: it may be removed when space is needed."""
        lock = self._held.pop(artifact.key_of(digests), None)
        if lock is not None:
            lock.close()

    def _hold(self, key: str) -> None:
        self._make_folders()
        path = self._objects / f"{key}.lock"
        if key in self._held:
            if path.exists():
                return
            self._held.pop(key).close()  # somebody removed it: it holds nothing any more
        try:
            lock: IO[bytes] = path.open("ab")
        except OSError:
            if not path.exists():
                if (self._objects / key).exists():
                    return  # a disk that only gives: nobody removes what is on it
                raise
            lock = path.open("rb")
        fcntl.flock(lock, fcntl.LOCK_SH)
        self._held[key] = lock

    def _make_folders(self) -> None:
        """Makes the folders of the cache, which somebody may have emptied."""
        for path in (self._objects, self._incoming):
            if not path.is_dir():
                path.mkdir(parents=True, exist_ok=True)

    def _fetch(self, folder: Path, digests: dict[str, str], fetch: Fetch) -> None:
        # By a name of its own; a temporary folder would be its owner's alone, here for ever.
        incoming = self._incoming / secrets.token_hex(8)
        incoming.mkdir()
        try:
            fetch(incoming)
            artifact.verify(incoming, digests)
            for path in (*incoming.iterdir(), incoming):
                sync(path)
            # If another process was faster, the name is taken by the same bytes.
            with contextlib.suppress(FileExistsError, OSError):
                incoming.rename(folder)
            if not folder.exists():
                raise OutageError(f"{folder} could not be made")
            sync(self._objects)
        finally:
            shutil.rmtree(incoming, ignore_errors=True)

    def _discard(self, folder: Path) -> None:
        """Takes ``folder`` away in one step, and then removes it."""
        aside = Path(tempfile.mkdtemp(dir=self._incoming))
        with contextlib.suppress(FileNotFoundError):
            folder.rename(aside / folder.name)
        shutil.rmtree(aside, ignore_errors=True)

    def _evict(self) -> None:
        """Removes what is stale, and what was used least lately until the rest fits."""
        for path in self._incoming.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > STALE_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
        sizes = {}
        for folder in self._objects.iterdir():
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                size = sum(file.stat().st_size for file in folder.iterdir())
                sizes[folder] = (folder.stat().st_mtime, size)
        total = sum(size for _, size in sizes.values())
        for folder in sorted(sizes, key=lambda item: sizes[item][0]):
            if total <= self.max_bytes:
                return
            if self._remove(folder):
                total -= sizes[folder][1]

    def _remove(self, folder: Path) -> bool:
        """Whether nobody held ``folder``, which is gone now."""
        if folder.name in self._held:
            return False
        with (self._objects / f"{folder.name}.lock").open("ab") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._discard(folder)
            return True
