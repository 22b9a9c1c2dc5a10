"""Pixels of a batch in memory that the front end shares with a worker on its own host.

On the way through a socket they are copied six times. A file in memory is written once, and the
worker maps it. The kernel frees it when both have let go of it, or have died.
"""

import asyncio
import contextlib
import fcntl
import mmap
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm2vec_service.errors import Code, ServeError

ALIGNMENT = 64
"""Bytes that the place of an array in a file is a multiple of."""
KEPT_SECONDS = 10.0
"""How long a file is kept for the next batch: to write to memory that there is takes a tenth of the
time in which the system finds new memory."""


class UnmappedError(ServeError):
    """A file cannot be shared between this front end and this worker."""

    code = Code.UNIMPLEMENTED


def aligned(nbytes: int) -> int:
    """Rounds ``nbytes`` up to what an array of so many bytes takes in a file."""
    return nbytes + -nbytes % ALIGNMENT


class PixelFile:
    """A file in memory with room for ``nbytes`` bytes of arrays; see `aligned`.

    ``descriptor`` and ``inode`` are its name for other processes. Raises `OSError` where the system
    has no such files, or no more of them.
    """

    def __init__(self, nbytes: int) -> None:
        # What is never written takes no memory: so it may as well fit the next, larger batch.
        self.nbytes = 1 << max(0, nbytes - 1).bit_length()
        self.descriptor = os.memfd_create("pixels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            os.ftruncate(self.descriptor, self.nbytes)
            # A worker dies that reads behind the end of a file that has become shorter.
            fcntl.fcntl(self.descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
            self.inode = os.fstat(self.descriptor).st_ino
            self._memory = mmap.mmap(self.descriptor, self.nbytes)
        except OSError:
            os.close(self.descriptor)
            raise
        self._end = 0
        self.expiry: asyncio.TimerHandle | None = None

    def write(self, values: npt.NDArray[Any]) -> int:
        """Writes an array behind those that are there, and returns the place of its first byte."""
        start = self._end
        np.ndarray(values.shape, values.dtype, self._memory, start)[...] = values
        self._end = start + aligned(values.nbytes)
        return start

    def rewind(self) -> None:
        """Forgets what is there: the next array is the first."""
        self._end = 0

    def close(self) -> None:
        """Gives name and memory back; a worker keeps what it has mapped."""
        os.close(self.descriptor)
        with contextlib.suppress(BufferError):  # of a batch given up, still being written
            self._memory.close()


class PixelFiles:
    """Files on the way to one worker, each lent to one batch after the other, on an event loop."""

    def __init__(self) -> None:
        self._idle: list[PixelFile] = []

    @contextlib.contextmanager
    def lent(self, nbytes: int) -> Iterator[PixelFile]:
        """Lends a file with room for ``nbytes``. It is used again only if the block ends well:
        otherwise the worker may still read it. Raises `UnmappedError`."""
        file = self._take(nbytes)
        try:
            yield file
        except BaseException:
            file.close()
            raise
        self._idle.append(file)
        file.expiry = asyncio.get_running_loop().call_later(KEPT_SECONDS, self._drop, file)

    def close(self) -> None:
        """Closes all that are not lent."""
        for file in list(self._idle):
            self._drop(file)

    def _take(self, nbytes: int) -> PixelFile:
        fitting = [file for file in self._idle if file.nbytes >= nbytes]
        if not fitting:
            if self._idle:  # in its place a larger one will be kept
                self._drop(self._idle[0])
            try:
                return PixelFile(nbytes)
            except OSError as error:
                raise UnmappedError(f"no file in memory: {error}") from error
        file = min(fitting, key=lambda one: one.nbytes)
        self._forget(file)
        file.rewind()
        return file

    def _drop(self, file: PixelFile) -> None:
        self._forget(file)
        file.close()

    def _forget(self, file: PixelFile) -> None:
        self._idle.remove(file)
        if file.expiry is not None:
            file.expiry.cancel()


def mapped(process: int, descriptor: int, inode: int) -> mmap.mmap:
    """Maps the `PixelFile` that ``process`` has, to be read. Raises `UnmappedError` if this process
    may not open it or it is another file."""
    path = f"/proc/{process}/fd/{descriptor}"
    try:
        # Whatever else it may be, opening it does not wait.
        found = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnmappedError(f"cannot open the file of pixels: {error}") from error
    try:
        is_sealed = fcntl.fcntl(found, fcntl.F_GET_SEALS) & fcntl.F_SEAL_SHRINK
        status = os.fstat(found)
        if status.st_ino != inode or not is_sealed:
            raise UnmappedError(f"{path} is not the file of pixels that is meant")
        return mmap.mmap(found, status.st_size, prot=mmap.PROT_READ)
    except OSError as error:  # a file of another kind, which has no seals
        raise UnmappedError(f"cannot map the file of pixels: {error}") from error
    finally:
        os.close(found)
