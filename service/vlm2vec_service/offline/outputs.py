"""Writes files of vectors, whose extension is the format: .npz, .jsonl or .parquet."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import numpy.typing as npt

from vlm2vec_registry.files import whole
from vlm2vec_service.errors import StartError

Write = Callable[[Sequence[str], Sequence[str | None], npt.NDArray[np.float32]], None]
"""Adds a batch: ids, the adapter of each, and vectors ``(len(ids), dim)``."""


@contextmanager
def open_output(path: Path) -> Iterator[Write]:
    """Gives a function that writes batches to ``path``, in the format of its extension.

    The file appears whole, when all is written; nothing of it is left after an exception. Raises
    `StartError` for an unknown extension or a folder that does not exist.
    """
    if path.suffix not in WRITERS:
        raise StartError(f"{path}: the extension is none of {', '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise StartError(f"{path}: the folder {path.parent} does not exist")
    with whole(path) as partial:
        try:
            partial.touch()
        except OSError as error:
            raise StartError(f"{path}: cannot be written: {error.strerror}") from error
        with WRITERS[path.suffix](partial) as write:
            yield write


@contextmanager
def _npz(path: Path) -> Iterator[Write]:
    """Arrays ``ids`` and ``adapters`` ``(n,)``, strings, and ``vectors``, float32 ``(n, dim)``. The
    adapter of what the base model embedded is an empty string."""
    names: dict[str, list[str]] = {"ids": [], "adapters": []}
    dimension = 0
    # numpy.savez would hold all vectors in memory. How many there are stands before the first.
    with tempfile.TemporaryFile(dir=path.parent) as rows, zipfile.ZipFile(path, "w") as archive:

        def write(
            ids: Sequence[str], adapters: Sequence[str | None], vectors: npt.NDArray[np.float32]
        ) -> None:
            nonlocal dimension
            for id, adapter, vector in zip(ids, adapters, vectors, strict=True):
                names["ids"].append(id)
                names["adapters"].append(adapter or "")
                rows.write(vector.astype("<f4").tobytes())
                dimension = len(vector)

        yield write
        for name, values in names.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, np.array(values, str), allow_pickle=False)
        shape = (len(names["ids"]), dimension)
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        rows.seek(0)
        with archive.open("vectors.npy", "w", force_zip64=True) as file:
            np.lib.format.write_array_header_1_0(file, header)
            shutil.copyfileobj(rows, file)


@contextmanager
def _jsonl(path: Path) -> Iterator[Write]:
    """``{"id", "adapter", "vector"}`` a line."""
    with path.open("w") as file:

        def write(
            ids: Sequence[str], adapters: Sequence[str | None], vectors: npt.NDArray[np.float32]
        ) -> None:
            for id, adapter, vector in zip(ids, adapters, vectors, strict=True):
                record = {"id": id, "adapter": adapter, "vector": vector.tolist()}
                file.write(json.dumps(record) + "\n")

        yield write


@contextmanager
def _parquet(path: Path) -> Iterator[Write]:
    """Columns ``id``, ``adapter`` and ``vector``, a list of float32."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        {"id": pa.string(), "adapter": pa.string(), "vector": pa.list_(pa.float32())}
    )
    with pq.ParquetWriter(path, schema) as writer:

        def write(
            ids: Sequence[str], adapters: Sequence[str | None], vectors: npt.NDArray[np.float32]
        ) -> None:
            writer.write_table(pa.table([list(ids), list(adapters), list(vectors)], schema=schema))

        yield write


WRITERS = {".npz": _npz, ".jsonl": _jsonl, ".parquet": _parquet}
