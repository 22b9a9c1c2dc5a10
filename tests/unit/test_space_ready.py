"""What a ready file has to say."""

import json
from pathlib import Path
from typing import Any

import pytest

from vlm2vec_registry.space_ready import FORMAT, read_ready

GOOD = {
    "format": FORMAT,
    "space": "new",
    "from_space": "old",
    "model": "m",
    "version": "7",
    "dimension": 8,
    "rows": 10,
    "failed": 1,
    "complete": True,
    "input_sha256": "0" * 64,
    "to": "alias:canary",
}


def test_good(tmp_path: Path) -> None:
    path = tmp_path / "ready.json"
    path.write_text(json.dumps(GOOD))
    assert read_ready(path) == GOOD


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"format": "vlm2vec-space-ready/2"}, "format: expected"),
        ({"space": ""}, "space: expected a string that is not empty, got ''"),
        ({"space": None}, "space: expected"),
        ({"from_space": 3}, "from_space: expected"),
        ({"rows": "10"}, "rows: expected a whole number, got '10'"),
        ({"rows": True}, "rows: expected a whole number, got True"),
        ({"complete": 1}, "complete: expected true, got 1"),
        ({"complete": False}, "complete: the run did not end"),
        ({"failed": 11}, "failed: 11 of 10 rows"),
        ({"failed": -1}, "failed: -1 of 10 rows"),
    ],
)
def test_bad_values(tmp_path: Path, change: dict[str, Any], problem: str) -> None:
    path = tmp_path / "ready.json"
    path.write_text(json.dumps(GOOD | change))
    with pytest.raises(ValueError, match=problem):
        read_ready(path)


@pytest.mark.parametrize("content", ["", "{", "[]", "7", "null", "[" * 100_000, "\xff"])
def test_other_files(tmp_path: Path, content: str) -> None:
    path = tmp_path / "ready.json"
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(ValueError, match=r"ready\.json: (no JSON|format)"):
        read_ready(path)


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_ready(tmp_path / "ready.json")
