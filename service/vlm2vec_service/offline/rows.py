"""Files of rows: parquet or JSON lines, read one after the other or by index.

Errors name the file, and the line where it is the line's fault.
"""

import contextlib
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vlm2vec_service.errors import Code, ServeError


class RowError(ServeError):
    """A file of rows is missing or unreadable, or a line of it is no JSON object."""

    code = Code.INVALID_ARGUMENT


def find_files(path: Path) -> list[Path]:
    """Lists the files of rows at ``path``, in the order of their names.

    ``path`` is a file, a pattern such as ``folder/test-*.parquet``, or a folder: of a folder these
    are its parquet files or, where it has none, its JSON-lines files. Raises `RowError` where there
    is no file.
    """
    if path.is_dir():
        files = sorted(path.glob("*.parquet")) or sorted(path.glob("*.jsonl"))
    elif "*" in path.name:
        files = sorted(path.parent.glob(path.name))
    else:
        files = [path] if path.is_file() else []
    if not files:
        raise RowError(f"{path}: no .parquet or .jsonl file is there")
    return files


def stream_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the rows of one file in order, a few at a time; empty lines are passed over.

    Raises `RowError`.
    """
    if path.suffix == ".parquet":
        with _named(path), pq.ParquetFile(path) as table:
            for batch in table.iter_batches(batch_size=64):
                yield from batch.to_pylist()
    else:
        with _named(path), path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _parse(line, path, number)


class RowFile:
    """The rows of one file in memory, by index: parquet stays packed, lines are kept as bytes.

    ``columns`` are the columns of a parquet file to read; those that it lacks are left out. Raises
    `RowError` for an unreadable file, and on access for a line that is no JSON object.
    """

    def __init__(self, path: Path, columns: Container[str]) -> None:
        self.path = path
        self._table: Any = None
        self._lines: list[bytes] = []
        with _named(path):
            if path.suffix == ".parquet":
                names = pq.read_schema(path).names
                self._table = pq.read_table(path, columns=[n for n in names if n in columns])
            else:
                self._lines = path.read_bytes().rstrip().splitlines()

    def __len__(self) -> int:
        return len(self._lines) if self._table is None else self._table.num_rows

    def __getitem__(self, index: int) -> dict[str, Any]:
        if self._table is not None:
            row: dict[str, Any] = self._table.slice(index, 1).to_pylist()[0]
            return row
        return _parse(self._lines[index], self.path, index + 1)

    def where(self, index: int) -> str:
        """Says where a row stands, for a message: the file and the number of the row or line."""
        return f"{self.path}: {'line' if self._table is None else 'row'} {index + 1}"


def _parse(line: bytes, path: Path, number: int) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RowError(f"{path}: line {number}: {error}") from error
    if not isinstance(row, dict):
        raise RowError(f"{path}: line {number}: expected a JSON object")
    return row


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns the errors of opening and reading ``path`` into `RowError`, which names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise RowError(f"{path}: {error}") from error
