"""Files and folders that appear whole: they are written aside, and then take their name.

A kill at any moment leaves what was there before, and beside it at most a hidden partial one.
"""

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Gives a path beside ``path`` at which the block writes a file or makes a folder.

    At the end of the block it is renamed to ``path``, in place of a file that is there; a folder
    that is there has to be empty. After an exception nothing of it is left. The partial path is
    the same each time, and what an earlier kill left there is removed. So only one process at a
    time may write ``path`` in this way.
    """
    partial = path.with_name(f".{path.name}.part")
    _remove(partial)
    try:
        yield partial
        os.replace(partial, path)
    finally:
        _remove(partial)


def write_whole(path: Path, text: str) -> None:
    """Writes ``text`` to the file ``path``, and waits until it is on the disk.

    Several processes may do so at once: the file is then that of one of them. Raises `OSError`.
    """
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with partial.open("x") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        _remove(partial)


def sync(path: Path) -> None:
    """Waits until the file or folder ``path`` is on the disk, a folder with the names in it."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        # The reason why it could not be written is the one to tell.
        with contextlib.suppress(OSError):
            path.unlink()
