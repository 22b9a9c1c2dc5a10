"""Files that are there whole or not at all, at whatever moment their writer is killed."""

import contextlib
import glob
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` at which the block writes a file.

    At the end of the block the file is synced to the disk and renamed to ``path``, in place of one
    that is there. After an exception nothing of it is left; after a kill, what `unfinished` finds.
    Raises OSError where the disk cannot be written.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield partial
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


def unfinished(path: Path) -> Iterator[Path]:
    """Yields the partial files that `whole` left behind where it was killed.

    They are those of the file ``path``; of a folder, those of any file in it.
    """
    if path.is_dir():
        return path.glob(".*.tmp")
    return path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.tmp")


def _sync(path: Path) -> None:
    """Has the system write a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
