"""Keeps vectors of one space on disk, in an append-only file that survives a kill at any moment."""

import fcntl
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from vlm2vec_evaluation.errors import EvaluationError

Vector = npt.NDArray[np.float32]
MAGIC = b"VLM2VEC1"
HEADER = struct.Struct("<8sI")
"""The magic and the dimension. Then records: 32 bytes of key, CRC-32 of key and vector, float32."""
KEY_BYTES = 32


class Vectors(Protocol):
    """A mapping of vectors by the digest of their input, as a dict is one."""

    def __contains__(self, key: object, /) -> bool: ...
    def __getitem__(self, key: bytes, /) -> Vector: ...
    def __setitem__(self, key: bytes, vector: Vector, /) -> None: ...


@contextmanager
def open_vectors(folder: Path, space: str) -> "Iterator[VectorFile]":
    """Opens the vectors of ``space`` in ``folder``, for this process alone.

    Raises `EvaluationError` where another process has them, or the file is none of ours.
    """
    path = folder / f"{space}.vectors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise EvaluationError(f"{path}: {error.strerror}; give another --cache") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield VectorFile(path, descriptor)
    except BlockingIOError as error:
        raise EvaluationError(
            f"{path}: another evaluation uses it; wait for it, or give another --cache"
        ) from error
    finally:
        os.close(descriptor)


class VectorFile:
    """An open file of vectors, by the keys of their inputs.

    Opening it cuts off what a kill left of a last record, and leaves out damaged records.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._file = descriptor
        self._offsets: dict[bytes, int] = {}
        self._dim = 0
        self._end = os.fstat(descriptor).st_size
        if self._end < HEADER.size:
            self._truncate(0)
        else:
            self._load()

    def __contains__(self, key: object) -> bool:
        return key in self._offsets

    def __len__(self) -> int:
        return len(self._offsets)

    def __getitem__(self, key: bytes) -> Vector:
        data = os.pread(self._file, 4 * self._dim, self._offsets[key])
        return np.frombuffer(data, "<f4")

    def __setitem__(self, key: bytes, vector: Vector) -> None:
        data = vector.astype("<f4").tobytes()
        header = b""
        if not self._dim:
            self._dim = len(vector)
            header = HEADER.pack(MAGIC, self._dim)
        if len(vector) != self._dim:
            raise EvaluationError(
                f"{self._path}: has vectors of {self._dim} dimensions, not {len(vector)}"
            )
        record = header + key + struct.pack("<I", zlib.crc32(data, zlib.crc32(key))) + data
        # One write: what a kill leaves of it is the end of the file.
        if os.write(self._file, record) != len(record):
            raise EvaluationError(f"{self._path}: the disk is full")
        self._end += len(record)
        self._offsets[key] = self._end - len(data)

    def _load(self) -> None:
        magic, self._dim = HEADER.unpack(os.pread(self._file, HEADER.size, 0))
        if magic != MAGIC or not self._dim:
            raise EvaluationError(f"{self._path}: no file of vectors; delete it")
        size = KEY_BYTES + 4 + 4 * self._dim
        whole = (self._end - HEADER.size) // size
        self._truncate(HEADER.size + whole * size)
        for number in range(whole):
            offset = HEADER.size + number * size
            record = os.pread(self._file, size, offset)
            key, data = record[:KEY_BYTES], record[KEY_BYTES + 4 :]
            (expected,) = struct.unpack_from("<I", record, KEY_BYTES)
            if zlib.crc32(data, zlib.crc32(key)) == expected:
                self._offsets[key] = offset + KEY_BYTES + 4

    def _truncate(self, size: int) -> None:
        if self._end != size:
            os.ftruncate(self._file, size)
            self._end = size
