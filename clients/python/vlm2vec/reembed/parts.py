"""Part files: the vectors of one part of a corpus, and what failed, in one parquet file.

A file is written beside its place, synced and renamed, so that it is there whole or not at all. It
says itself which job and which part it is of: the files are the record of what is done.
"""

import glob
import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm2vec.items import Id
from vlm2vec.reembed.arrow import pa, pq
from vlm2vec.reembed.corpus import Part
from vlm2vec.reembed.job import Job
from vlm2vec.vectors import Array

BATCH_ROWS = 1024
"""Rows of vectors in memory while files are checked and merged."""


@dataclass(frozen=True)
class Failure:
    """A row without a vector, and why."""

    row: int
    """Its number in the corpus, from 0."""
    id: object
    """As it stands in the corpus; None where it cannot be read."""
    code: str
    """The name of a gRPC status code."""
    field: str
    """The field at fault; empty where none is."""
    error: str
    """A sentence."""


def part_path(folder: Path, index: int) -> Path:
    """Where the file of a part is."""
    return folder / f"part-{index:06}.parquet"


def write_part(
    job: Job, part: Part, ids: Sequence[Id], vectors: Array, failures: Sequence[Failure]
) -> None:
    """Writes the file of a part: ``ids``, and float32 ``(len(ids), dimension)``."""
    listed = json.dumps([asdict(failure) for failure in failures], default=repr)
    schema = _schema(job, {**_identity(job, part), "failures": listed})
    flat = pa.array(vectors.reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, job.target.dimension)
    table = pa.table([pa.array(ids, schema.field("id").type), column], schema=schema)
    replace(
        part_path(job.folder, part.index),
        lambda path: pq.write_table(table, path, **_HOW),
    )


def check_part(job: Job, part: Part) -> int | None:
    """How many rows of the part failed, if its file is whole and of this job; None otherwise.

    Reads all of it, and compares the checksums of its pages.
    """
    try:
        with _open(part_path(job.folder, part.index)) as file:
            metadata = _metadata(file)
            failed = len(json.loads(metadata.get("failures", "null")) or ())
            rows = sum(batch.num_rows for batch in file.iter_batches(BATCH_ROWS))
    except (OSError, pa.ArrowException, ValueError):
        return None
    expected = _identity(job, part)
    good = expected.items() <= metadata.items() and rows + failed == part.rows
    return failed if good else None


def failures_of(job: Job, index: int) -> list[dict[str, Any]]:
    """The failed rows of a part, as in `Failure`."""
    with _open(part_path(job.folder, index)) as file:
        failures: list[dict[str, Any]] = json.loads(_metadata(file)["failures"])
    return failures


def merge(job: Job, parts: Iterable[Part], output: Path) -> None:
    """Writes the rows of all parts to one file, a row group for each part."""

    def write(path: Path) -> None:
        with pq.ParquetWriter(path, _schema(job, {}), **_HOW) as writer:
            for part in parts:
                with _open(part_path(job.folder, part.index)) as file:
                    # Without the part's own metadata.
                    writer.write_table(file.read().replace_schema_metadata(writer.schema.metadata))

    replace(output, write)


def unfinished(path: Path) -> Iterator[Path]:
    """Files that `replace` was about to put at ``path``, or in a folder, when it was killed."""
    if path.is_dir():
        return path.glob(".*.tmp")
    return path.parent.glob(f".{glob.escape(path.name)}.{'[0-9a-f]' * 32}.tmp")


def replace(path: Path, write: Callable[[Path], object]) -> None:
    """Lets ``write`` make a file that then takes its place at ``path``, whole and on the disk."""
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        write(partial)
        _sync(partial)
        os.replace(partial, path)
        _sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


_HOW: dict[str, Any] = {
    # Vectors do not compress, and are all different.
    "compression": "none",
    "use_dictionary": False,
    "write_statistics": False,
    "write_page_checksum": True,
}


def _schema(job: Job, more: dict[str, str]) -> Any:
    target = job.target
    metadata = {
        "space": target.space,
        "from_space": job.from_space,
        "model": target.model,
        "version": target.version,
        **more,
    }
    id_type = pa.int64() if job.id_type == "int64" else pa.string()
    return pa.schema(
        {"id": id_type, "vector": pa.list_(pa.float32(), target.dimension)},
        metadata={f"vlm2vec.{key}": value for key, value in metadata.items()},
    )


def _identity(job: Job, part: Part) -> dict[str, str]:
    """What the file of a part has to say for itself."""
    return {
        "space": job.target.space,
        "job": job.digest,
        "part": str(part.index),
        "first_row": str(part.first),
        "rows": str(part.rows),
    }


def _metadata(file: Any) -> dict[str, str]:
    found = file.schema_arrow.metadata or {}
    return {
        key.decode().removeprefix("vlm2vec."): value.decode(errors="replace")
        for key, value in found.items()
    }


def _open(path: Path) -> Any:
    return pq.ParquetFile(path, page_checksum_verification=True)


def _sync(path: Path) -> None:
    """Has the system write a file, or the entries of a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
