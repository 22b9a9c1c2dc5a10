"""A server that is given what is no registry says so and ends; it neither waits nor makes any."""

import subprocess
from pathlib import Path

import pytest

from tests.e2e.server import COMMAND


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("mlflow:5000", "an MLflow server there is http://mlflow:5000"),
        ("mysql://user:s3cret@127.0.0.1:9/db", "No module named"),
    ],
)
def test_no_registry_is_one_sentence_and_status_2(
    checkpoints: Path, tmp_path: Path, uri: str, problem: str
) -> None:
    away = tmp_path / "away"
    away.mkdir()
    result = subprocess.run(
        [
            COMMAND, "serve", f"--model=qwen={checkpoints / 'qwen2_vl'}", f"--registry={uri}",
            f"--cache-dir={tmp_path / 'cache'}", "--listen=127.0.0.1:0", "--metrics-listen=",
            "--http-listen=",
        ],
        cwd=away, text=True, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    assert result.returncode == 2
    last = result.stderr.splitlines()[-1]
    assert last.startswith("Error: ")
    assert problem in last
    assert "s3cret" not in result.stderr
    assert "Traceback" not in result.stderr
    assert list(away.iterdir()) == []
