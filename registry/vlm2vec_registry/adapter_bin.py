"""``adapter_model.bin`` as ``torch.save`` writes it, made a safetensors file.

Adapters of 2024 were published so. The file is a zip without compression: a pickle that describes
the tensors, and a file for the bytes of each storage. Nothing in it is run (see `pickled`), no name
in it becomes a path, and neither what is read nor what is written is ever more than a limit.
"""

import io
import json
import struct
import zipfile
import zlib
from collections.abc import Mapping
from math import prod
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.pickled import Storage, StoredTensor, read_pickle
from vlm2vec_registry.strict import shown

MOST_BYTES = 1 << 30
"""Of the file, and of its tensors: what a server accepts of a version by default."""
MOST_PICKLE = 4 << 20
"""Bytes of the pickle: names, shapes and strides of some 20,000 tensors."""
MOST_DIRECTORY = 8 << 20
"""Bytes of the zip's directory, of some 100,000 storages."""
BAD_ZIP = (
    zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, ValueError, OverflowError,
    NotImplementedError, RuntimeError,
)  # fmt: skip
"""What Python's `zipfile` raises for files that are damaged, or that were made to be."""

Elements = npt.NDArray[np.unsignedinteger]
"""The elements of a tensor as whole numbers of their size: bits are moved, never converted."""


def convert(source: Path, target: Path, most_bytes: int = MOST_BYTES) -> int:
    """Writes the tensors of the ``torch.save`` file ``source`` to the safetensors file ``target``.

    Returns how many there are. Names, shapes, dtypes and bits stay as they are; views become
    contiguous. Raises `ArtifactError` for a file that holds anything but tensors, is damaged, or
    has more than ``most_bytes``, in itself or in its tensors; `OSError` where ``target`` cannot be
    written.
    """
    try:
        tensors = _read(source, most_bytes)
    except (ArtifactError, OSError) as error:
        raise ArtifactError(f"{source}: {error}") from error
    _write(target, tensors)
    return len(tensors)


class _BoundedReader(io.BufferedReader):
    """A file of which no more than ``most`` bytes are read at a time.

    `zipfile` reads the whole directory at once, of the size that the file claims.
    """

    most = MOST_DIRECTORY

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = self.most
        if size > self.most:
            raise ArtifactError(f"its directory is larger than {self.most} bytes")
        return super().read(size)


class _Archive:
    """The files in a zip of ``torch.save``, by their names without the folder around them all."""

    def __init__(self, file: _BoundedReader, most_bytes: int) -> None:
        self._zip = zipfile.ZipFile(file)
        file.most = self._left = most_bytes
        names = self._zip.namelist()
        roots = [name.removesuffix("data.pkl") for name in names if name.endswith("/data.pkl")]
        if len(roots) != 1 or roots[0].count("/") != 1:
            raise ArtifactError("no file of torch.save: there is not one data.pkl in it")
        if len(set(names)) != len(names):
            raise ArtifactError("two files in it have one name")
        self._root, self._names = roots[0], frozenset(names)

    def read(self, name: str, size: int | None = None, most: int | None = None) -> bytes:
        """Reads the file ``name``, which has to have ``size`` bytes, or at most ``most``."""
        if f"{self._root}{name}" not in self._names:
            raise ArtifactError(f"{name} is missing in it")
        entry = self._zip.getinfo(f"{self._root}{name}")
        if entry.compress_type != zipfile.ZIP_STORED or entry.file_size != entry.compress_size:
            raise ArtifactError(f"{name} is compressed, which torch.save never does")
        if entry.file_size > (self._left if most is None else most):
            raise ArtifactError(f"{name} has {entry.file_size} bytes, more than are read")
        if size not in (None, entry.file_size):
            raise ArtifactError(f"{name} has {entry.file_size} bytes, not {size}")
        self._left -= entry.file_size
        return self._zip.read(entry)

    def is_little_endian(self) -> bool:
        """Whether numbers begin with their lowest byte; files without a word on it do."""
        name = "byteorder"
        return f"{self._root}{name}" not in self._names or self.read(name, most=16) == b"little"


def _read(source: Path, most_bytes: int) -> dict[str, tuple[str, Elements]]:
    """The dtype and the elements of each tensor in the file ``source``."""
    if source.stat().st_size > most_bytes:
        raise ArtifactError(f"it has more than {most_bytes} bytes")
    with source.open("rb", buffering=0) as raw, _BoundedReader(raw) as file:
        try:
            if not zipfile.is_zipfile(file):
                raise ArtifactError(
                    "no zip of torch.save; files of torch before 1.6 are not read: save what "
                    "torch.load(..., weights_only=True) gives with a newer one"
                )
            archive = _Archive(file, most_bytes)
            tensors = read_pickle(archive.read("data.pkl", most=MOST_PICKLE))
            if not archive.is_little_endian():
                raise ArtifactError("its numbers are big-endian")
            _check(tensors, most_bytes)
            storages = {tensor.storage for tensor in tensors.values()}
            stored = {storage.key: _elements(archive, storage) for storage in storages}
        except BAD_ZIP as error:
            raise ArtifactError(f"the zip is damaged: {error}") from error
    return {
        name: (tensor.storage.dtype, _view(stored[tensor.storage.key], tensor))
        for name, tensor in tensors.items()
    }


def _check(tensors: Mapping[str, StoredTensor], most_bytes: int) -> None:
    """Refuses what would take too much memory, and what safetensors cannot hold."""
    kinds: dict[str, Storage] = {}
    total = 0
    for name, tensor in tensors.items():
        storage = tensor.storage
        if kinds.setdefault(storage.key, storage) != storage:
            raise ArtifactError(f"storage {storage.key} is of two kinds or sizes")
        if name == "__metadata__" or not name.isprintable():
            raise ArtifactError(f"{shown(name)} is no name of a tensor")
        # Dimensions of 0 count as 1: an empty tensor's others must not overflow its readers.
        total += storage.itemsize * prod(max(size, 1) for size in tensor.shape)
        if total > most_bytes:
            raise ArtifactError(f"its tensors have more than {most_bytes} bytes")


def _elements(archive: _Archive, storage: Storage) -> Elements:
    size = storage.count * storage.itemsize
    data = archive.read(f"data/{storage.key}", size)
    return np.frombuffer(data, dtype=f"<u{storage.itemsize}")


def _view(elements: Elements, tensor: StoredTensor) -> Elements:
    if not tensor.count:
        return elements[:0].reshape(tensor.shape)
    strides = [stride * elements.itemsize for stride in tensor.strides]
    return np.lib.stride_tricks.as_strided(
        elements[tensor.offset :], tensor.shape, strides, writeable=False
    )


def _write(target: Path, tensors: Mapping[str, tuple[str, Elements]]) -> None:
    """Writes safetensors: a size, a header of JSON, and the bytes, the widest elements first."""
    ordered = sorted(tensors, key=lambda name: (-tensors[name][1].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in ordered:
        dtype, elements = tensors[name]
        start, end = end, end + elements.nbytes
        header[name] = {"dtype": dtype, "shape": elements.shape, "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with target.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in ordered:
            file.write(np.ascontiguousarray(tensors[name][1]).data)
