"""Part files: the vectors of one part of a corpus, and what failed, in one parquet file.

A file is there whole or not at all, and says itself which job and which part it is of: the files
are the record of what is done.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from vlm2vec.files import whole
from vlm2vec.reembed.arrow import pa, pq
from vlm2vec.reembed.corpus import Part
from vlm2vec.reembed.job import Job
from vlm2vec.stream_items import Id
from vlm2vec.vectors import Array

BATCH_ROWS = 1024
"""Rows of a part file that are in memory at a time while it is checked."""


@dataclass(frozen=True)
class FailedRow:
    """A row that has no vector, and the error that says why."""

    row: int
    """Its number in the corpus, from 0."""
    id: object
    """Its id as it stands in the corpus; None where it cannot be read."""
    code: str
    """The name of a gRPC status code."""
    field: str
    """The field at fault; empty where no field is."""
    error: str
    """The message of the error, a sentence."""


def part_path(folder: Path, index: int) -> Path:
    """Returns the path of the file of a part; ``index`` is the part's place, from 0."""
    return folder / f"part-{index:06}.parquet"


def write_part(
    job: Job, part: Part, ids: Sequence[Id], vectors: Array, failed: Sequence[FailedRow]
) -> None:
    """Writes the file of a part, all at once.

    ``vectors`` is float32 ``(len(ids), dimension)``, of the rows that have vectors; the others are
    ``failed``. Raises OSError where the folder cannot be written.
    """
    listed = json.dumps([asdict(row) for row in failed], default=repr)
    schema = _schema(job, {**_identity(job, part), "failures": listed})
    flat = pa.array(vectors.reshape(-1), pa.float32())
    column = pa.FixedSizeListArray.from_arrays(flat, job.target.dimension)
    table = pa.table([pa.array(ids, schema.field("id").type), column], schema=schema)
    with whole(part_path(job.folder, part.index)) as path:
        pq.write_table(table, path, **_HOW)


def check_part(job: Job, part: Part) -> int | None:
    """Returns how many rows of a part failed, or None if its file is not whole or not of this job.

    Reads the whole file, and compares the checksums of its pages.
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


def failed_rows(job: Job, index: int) -> list[dict[str, Any]]:
    """Reads the failed rows of a part from its file, each with the fields of `FailedRow`."""
    with _open(part_path(job.folder, index)) as file:
        rows: list[dict[str, Any]] = json.loads(_metadata(file)["failures"])
    return rows


def merge(job: Job, parts: Iterable[Part], output: Path) -> None:
    """Writes the rows of all parts to the file ``output``, a row group for each part."""
    with whole(output) as path, pq.ParquetWriter(path, _schema(job, {}), **_HOW) as writer:
        for part in parts:
            with _open(part_path(job.folder, part.index)) as file:
                # Without the part's own metadata.
                writer.write_table(file.read().replace_schema_metadata(writer.schema.metadata))


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
        "from_space": job.settings.from_space,
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
    """Returns the metadata by which the file of a part is known to be that of this job."""
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
