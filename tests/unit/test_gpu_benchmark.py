"""`make gpu` runs to its end without a GPU, at the smallest size, and loses no section's rows."""

import importlib
import json
import math
import os
import sys
from pathlib import Path

import pytest
import torch

from benchmarks.gpu import __main__ as runner
from benchmarks.gpu.rows import SECTIONS, Options, Row, table

LEAST = {"kernels": 15, "parity": 15, "engine": 25, "training": 3, "startup": 12}
"""The rows that a section has at least."""


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SECTIONS)
def test_a_section_runs_to_its_end(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = str(Path(__file__).parents[2])
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([root, *filter(None, sys.path)]))
    section = importlib.import_module(f"benchmarks.gpu.{name}")
    threads = torch.get_num_threads()
    try:
        rows = list(section.run(Options("cpu", "tiny", str(tmp_path))))
    finally:
        torch.set_num_threads(threads)
    assert len(rows) >= LEAST[name]
    assert all(row.section == name and math.isfinite(row.value) for row in rows)
    assert not [row for row in rows if row.ok is False]


def test_a_section_that_fails_or_hangs_has_a_row_that_says_so(tmp_path: Path) -> None:
    options = Options("cpu", "tiny", str(tmp_path))
    (failed,) = runner.run_section(sys.executable, "missing", options, 60)
    assert failed.ok is False
    assert failed.note == (
        "exit code 1: ModuleNotFoundError: No module named 'benchmarks.gpu.missing'"
    )
    (stopped,) = runner.run_section(sys.executable, "kernels", options, 0.1)
    assert stopped.ok is False
    assert stopped.note == "stopped, at its time limit of 0.1 s or for want of memory"


def test_results_are_written_after_each_section_and_the_exit_code_says_how_it_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    written = []

    def fake(python: str, name: str, options: Options, limit: float) -> list[Row]:
        file = tmp_path / "gpu.json"
        written.append(len(json.loads(file.read_text())["rows"]) if file.exists() else 0)
        return [Row(name, "a cosine", 0.5, "cosine", "above 0.9", name == "kernels")]

    monkeypatch.setattr(runner, "run_section", fake)
    monkeypatch.setattr(sys, "argv", ["gpu", "--only", "kernels,parity", "--output", str(tmp_path)])
    with pytest.raises(SystemExit) as error:
        runner.main()
    assert error.value.code == 1
    assert written == [0, 1]
    assert "FAILED above 0.9" in capsys.readouterr().out
    rows = [Row(**row) for row in json.loads((tmp_path / "gpu.json").read_text())["rows"]]
    assert [row.ok for row in rows] == [True, False]


def test_rows_survive_their_way_and_fill_a_table() -> None:
    row = Row("engine", "text", 1234.5, "inputs/s", "0.62 of the product rate")
    assert Row.from_json(row.to_json()) == row
    assert table([row]) == "engine    text       1234.5 inputs/s          0.62 of the product rate"
