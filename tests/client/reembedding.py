"""Corpora to re-embed, and checks of what is written for them."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.client.server import Service
from tests.client.vectors import text, vector_of
from vlm2vec.reembed.settings import Settings
from vlm2vec_registry.space_ready import Ready, read_ready

INSTRUCTION = "Represent."


def write_lines(path: Path, rows: Iterable[dict[str, Any] | str]) -> Path:
    """A JSON-lines corpus; a string is a line as it stands."""
    with path.open("w") as file:
        for row in rows:
            file.write((row if isinstance(row, str) else json.dumps(row)) + "\n")
    return path


def write_corpus(path: Path, count: int) -> Path:
    """``count`` texts, whose ids are ``row 0``, ``row 1``…, as JSON lines or parquet."""
    rows = [{"id": f"row {index}", "text": f"text {index}"} for index in range(count)]
    if path.suffix == ".jsonl":
        return write_lines(path, rows)
    vectors = np.zeros((count, 4), np.float32)
    table = pa.Table.from_pylist(rows).append_column("vector", [vectors.tolist()])
    # Row groups that are no multiple of a part.
    pq.write_table(table, path, row_group_size=37)
    return path


def settings(service: Service, source: Path, output: Path, **changes: Any) -> Settings:
    """A run with small parts."""
    given: dict[str, Any] = {
        "connection": {"server": service.address, "initial_backoff": 0.01},
        "model": "",
        "to": "alias:canary",
        "from_space": "space-0",
        "source": source,
        "output": output,
        "instruction": INSTRUCTION,
        "part_rows": 10,
        "window": 8,
    }
    return Settings(**given | changes)


def flags(service: Service, source: Path, output: Path) -> list[str]:
    """The same run as arguments of the command."""
    return [
        "reembed", "--server", service.address, "--to", "alias:canary", "--from-space", "space-0",
        "--input", str(source), "--output", str(output), "--instruction", INSTRUCTION,
        "--window", "8",
    ]  # fmt: skip


def assert_complete(output: Path, count: int, failed: Iterable[int] = ()) -> Ready:
    """Every row of `write_corpus` exactly once, in order, but for those that failed."""
    table = pq.read_table(output)
    numbers = sorted(set(range(count)) - set(failed))
    assert table.column("id").to_pylist() == [f"row {number}" for number in numbers]
    expected = [vector_of(text(f"text {number}", INSTRUCTION)) for number in numbers]
    column = table.column("vector").combine_chunks()
    found = column.flatten().to_numpy().reshape(len(numbers), -1)
    np.testing.assert_array_equal(found, expected)
    assert table.schema.metadata[b"vlm2vec.space"] == b"space-1"
    assert not list(output.parent.rglob("*.tmp"))
    ready = read_ready(ready_path(output))
    assert (ready["rows"], ready["failed"]) == (count, len(list(failed)))
    assert (ready["space"], ready["from_space"]) == ("space-1", "space-0")
    assert (ready["model"], ready["version"]) == ("made-up", "1")
    return ready


def ready_path(output: Path) -> Path:
    if output.suffix == ".parquet":
        return output.with_name(f"{output.name}.ready.json")
    return output / "_ready.json"
