"""Rows of parquet and JSON lines: streamed and by index, with errors that name file and line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vlm2vec_service.offline.rows import RowError, RowFile, find_files, stream_rows

ROWS = [{"a": number, "b": ["x", "y"]} for number in range(130)]


@pytest.fixture(params=["rows.parquet", "rows.jsonl"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / str(request.param)
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(ROWS), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def test_rows_are_the_same_streamed_and_by_index(path: Path) -> None:
    assert list(stream_rows(path)) == ROWS
    rows = RowFile(path, ("a", "b", "no such column"))
    assert len(rows) == len(ROWS)
    assert [rows[0], rows[129]] == [ROWS[0], ROWS[129]]
    unit = "row" if path.suffix == ".parquet" else "line"
    assert rows.where(129) == f"{path}: {unit} 130"


def test_of_parquet_only_the_columns_asked_for_are_read(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "rows.parquet")
    assert RowFile(tmp_path / "rows.parquet", ("a",))[3] == {"a": 3}


def test_a_streamed_line_is_not_read_before_it_is_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"a": 1}\n\n{"a": 2}\n{')
    rows = stream_rows(path)
    assert [next(rows), next(rows)] == [{"a": 1}, {"a": 2}]
    with pytest.raises(RowError, match=r"rows.jsonl: line 4: Expecting"):
        next(rows)


@pytest.mark.parametrize(
    ("line", "problem"),
    [("{", "Expecting"), ("[1]", "expected a JSON object"), ("[" * 100_000, "recursion")],
)
def test_a_line_that_is_no_object_is_named_on_access(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f'{{"a": 1}}\n{line}\n')
    rows = RowFile(path, ())
    assert (len(rows), rows[0]) == (2, {"a": 1})
    with pytest.raises(RowError, match=f"rows.jsonl: line 2: .*{problem}"):
        rows[1]


def test_a_file_that_is_no_parquet_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_text("no parquet")
    with pytest.raises(RowError, match=r"rows.parquet: "):
        RowFile(path, ())
    with pytest.raises(RowError, match=r"rows.parquet: "):
        next(stream_rows(path))


def test_files_of_a_folder_a_pattern_and_a_path(tmp_path: Path) -> None:
    names = ["b.jsonl", "a.jsonl", "other.txt"]
    for name in names:
        (tmp_path / name).write_text("")
    lines = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert find_files(tmp_path) == find_files(tmp_path / "*.jsonl") == lines
    assert find_files(tmp_path / "a.jsonl") == lines[:1]
    (tmp_path / "c.parquet").write_text("")
    assert find_files(tmp_path) == [tmp_path / "c.parquet"]
    for missing in ("d.jsonl", "d-*.parquet"):
        with pytest.raises(RowError, match=r"no .parquet or .jsonl file is there"):
            find_files(tmp_path / missing)
