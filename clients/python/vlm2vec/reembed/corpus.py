"""A corpus: a parquet or JSON-lines file, cut into parts that can be read by themselves."""

import hashlib
import json
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from vlm2vec.errors import InvalidInput
from vlm2vec.inputs import KEYS
from vlm2vec.reembed.arrow import pa, pq
from vlm2vec.reembed.rows import IdType, id_type_of, unknown_keys

BATCH_ROWS = 64
"""How many rows of a parquet file are decoded at a time."""
SPACE_KEY = b"vlm2vec.space"
"""The key, in a parquet file's schema metadata, of the space that its vectors are in."""


@dataclass(frozen=True)
class Part:
    """Rows of a corpus that follow each other, and whose vectors are written to one file."""

    index: int
    """Its place among the parts, from 0."""
    first: int
    """The number of its first row, from 0."""
    rows: int
    """How many rows it has."""
    offset: int
    """Bytes of a JSON-lines file before the first row; 0 in a parquet file."""


@dataclass(frozen=True)
class Corpus:
    """What `survey` finds out about a corpus before any of it is embedded."""

    path: Path
    """The file."""
    sha256: str
    """The SHA-256 of the whole file, in hexadecimal."""
    rows: int
    """How many rows the file has."""
    parts: tuple[Part, ...]
    """All rows, cut into parts, in order."""
    id_type: IdType
    """The type that all ids must have, which is that of the first."""
    space: str | None
    """The space of the vectors in the file, where it says so itself; otherwise None."""
    stamp: tuple[int, int]
    """The size of the file in bytes, and the time of its last change in nanoseconds."""

    def check_unchanged(self) -> None:
        """Raises ValueError if the file was written to since it was surveyed."""
        if _stamp(self.path) != self.stamp:
            raise ValueError(
                f"{self.path} was changed while it was read: what was written is of no use; "
                "give another --output and start again"
            )


def survey(path: Path, part_rows: int, ignore: Collection[str]) -> Corpus:
    """Reads the file once, in bounded memory, and cuts it into parts of ``part_rows`` rows.

    Raises OSError, and ValueError for a file that is neither parquet nor JSON lines, has no rows
    or no ids, or has columns that a row may not have and that are not to be ignored.
    """
    stamp = _stamp(path)
    if path.suffix == ".parquet":
        digest, rows, offsets, id_type, space = _survey_parquet(path, part_rows, ignore)
    elif path.suffix == ".jsonl":
        digest, rows, offsets, id_type = _survey_lines(path, part_rows, ignore)
        space = None
    else:
        raise ValueError(f"{path}: a corpus is a .parquet or a .jsonl file")
    if not rows:
        raise ValueError(f"{path} has no rows")
    parts = tuple(
        Part(index, index * part_rows, min(part_rows, rows - index * part_rows), offset)
        for index, offset in enumerate(offsets)
    )
    return Corpus(path, digest, rows, parts, id_type, space, stamp)


def read(path: Path, part: Part) -> Iterator[dict[str, Any] | InvalidInput]:
    """Yields the rows of a part, of which a few at a time are in memory.

    A line that is no JSON object gives an `InvalidInput` in place of a row.

    Raises ValueError where the file has fewer rows than the part.
    """
    rows = _read_parquet(path, part) if path.suffix == ".parquet" else _read_lines(path, part)
    count = 0
    for row in rows:
        count += 1
        yield row
    if count != part.rows:
        raise ValueError(f"{path} was changed while it was read: it has fewer rows now")


def _survey_parquet(
    path: Path, part_rows: int, ignore: Collection[str]
) -> tuple[str, int, list[int], IdType, str | None]:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with _open_parquet(path) as table:
        schema, rows = table.schema_arrow, table.metadata.num_rows
    _check_columns(path, schema.names, ignore)
    kind = schema.field("id").type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    id_type: IdType = "int64" if pa.types.is_integer(kind) else "string"
    space = (schema.metadata or {}).get(SPACE_KEY)
    offsets = [0] * -(-rows // part_rows)
    return digest, rows, offsets, id_type, None if space is None else space.decode()


def _survey_lines(
    path: Path, part_rows: int, ignore: Collection[str]
) -> tuple[str, int, list[int], IdType]:
    digest = hashlib.sha256()
    offsets: list[int] = []
    rows = position = 0
    id_type: IdType | None = None
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            if line.strip():
                if rows % part_rows == 0:
                    offsets.append(position)
                rows += 1
                row = None if id_type else _row(line)
                if isinstance(row, dict):
                    _check_columns(path, row, ignore)
                    id_type = id_type_of(row["id"])
            position += len(line)
    return digest.hexdigest(), rows, offsets, id_type or "string"


def _read_parquet(path: Path, part: Part) -> Iterator[dict[str, Any]]:
    with _open_parquet(path) as table:
        columns = [name for name in table.schema_arrow.names if name in KEYS]
        groups, skip = _groups(table.metadata, part)
        left = part.rows
        for batch in table.iter_batches(BATCH_ROWS, row_groups=groups, columns=columns):
            rows = batch.slice(min(skip, batch.num_rows), left)
            skip -= min(skip, batch.num_rows)
            left -= rows.num_rows
            yield from rows.to_pylist()
            if not left:
                return


def _groups(metadata: Any, part: Part) -> tuple[list[int], int]:
    """Returns the row groups that a part lies in, and how many of their rows come before it."""
    groups: list[int] = []
    skip = first = 0
    for index in range(metadata.num_row_groups):
        end = first + metadata.row_group(index).num_rows
        if part.first < end and first < part.first + part.rows:
            if not groups:
                skip = part.first - first
            groups.append(index)
        first = end
    return groups, skip


def _read_lines(path: Path, part: Part) -> Iterator[dict[str, Any] | InvalidInput]:
    with path.open("rb") as file:
        file.seek(part.offset)
        for line in islice((line for line in file if line.strip()), part.rows):
            yield _row(line)


def _row(line: bytes) -> dict[str, Any] | InvalidInput:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        return InvalidInput(f"no JSON: {error}")
    return row if isinstance(row, dict) else InvalidInput("not a JSON object")


def _check_columns(path: Path, names: Collection[str], ignore: Collection[str]) -> None:
    if "id" not in names:
        raise ValueError(f"{path}: there is no column id; every row needs one")
    if unknown := unknown_keys(names, ignore):
        raise ValueError(
            f"{path}: unknown column {', '.join(unknown)}; if it may be left out, give "
            f"{' '.join(f'--ignore {name}' for name in unknown)}"
        )


def _open_parquet(path: Path) -> Any:
    # Page by page: a row group may be larger than memory.
    return pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns
