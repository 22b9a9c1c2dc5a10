"""Re-embedding that is refused: another job or input than before, a second writer, wrong flags and
missing packages."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.client.reembedding import assert_complete, flags, ready_path, settings, write_corpus
from tests.client.server import Service
from tests.client.test_command import run as command
from vlm2vec.reembed.run import run


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"instruction": "other"}, "instruction 'Represent.', which is now 'other'"),
        ({"from_space": "space-00"}, "from_space 'space-0'"),
        ({"part_rows": 11}, "part_rows 10, which is now 11: give the same as then"),
        ({"dimensions": 3}, "dimension 12, which is now 3"),
        ({"truncate": 300}, "truncate None, which is now 300"),
    ],
)
@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_another_job_is_refused(
    tmp_path: Path, service: Service, name: str, changes: dict[str, Any], problem: str
) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 20), tmp_path / name
    run(settings(service, source, output))
    with pytest.raises(ValueError, match=problem):
        run(settings(service, source, output, **changes))
    assert_complete(output, 20)


@pytest.mark.parametrize("name", ["out", "out.parquet"])
def test_another_input_is_refused(tmp_path: Path, service: Service, name: str) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 20), tmp_path / name
    run(settings(service, source, output))
    source.write_text(source.read_text().replace("text 7", "text 8"))
    with pytest.raises(ValueError, match=r"input_sha256 .*: give the corpus as it was then"):
        run(settings(service, source, output))


def test_input_that_changes_meanwhile(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 100)

    def error(id: str) -> None:
        with source.open("a") as file:
            file.write("\n")

    service.behaviour.item_error = error
    with pytest.raises(ValueError, match="was changed while it was read"):
        run(settings(service, source, tmp_path / "out"))
    assert not ready_path(tmp_path / "out").exists()


def test_one_writer_at_a_time(tmp_path: Path, service: Service) -> None:
    source, output = write_corpus(tmp_path / "in.jsonl", 20), tmp_path / "out"
    run(settings(service, source, output))
    with (output / ".lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another process is writing here"):
            run(settings(service, source, output))
    run(settings(service, source, output))


def test_other_files_are_left_alone(tmp_path: Path, service: Service) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 20)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "part-000000.parquet").write_text("mine")
    (tmp_path / "out.parquet").write_text("mine")
    with pytest.raises(ValueError, match="has other files"):
        run(settings(service, source, tmp_path / "out"))
    with pytest.raises(ValueError, match=r"out\.parquet exists: give another"):
        run(settings(service, source, tmp_path / "out.parquet"))
    assert (tmp_path / "out" / "part-000000.parquet").read_text() == "mine"
    assert (tmp_path / "out.parquet").read_text() == "mine"


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"--to": "canary"}, "--to is 'canary', not alias:NAME"),
        ({"--to": "alias:"}, "--to is 'alias:'"),
        ({"--window": "0"}, "--window is 0, not at least 1"),
        ({"--engine": "spark"}, "'spark' is not one of local, ray"),
        ({"--input": "in.csv"}, "a corpus is a .parquet or a .jsonl file"),
        ({"--input": "gone.jsonl"}, "gone.jsonl"),
        ({"--input": "empty.jsonl"}, "empty.jsonl has no rows"),
        ({"--input": "typo.jsonl"}, "unknown column txet"),
        ({"--input": "nameless.jsonl"}, "there is no column id"),
        ({"--input": "text.parquet"}, "vlm2vec-client: error: "),
        ({"--output": "no/out"}, "the folder no does not exist"),
        ({"--output": "folder.parquet"}, "is a folder"),
    ],
)
def test_usage_errors(
    tmp_path: Path, service: Service, changes: dict[str, str], problem: str
) -> None:
    (tmp_path / "in.csv").write_text("id\n1\n")
    (tmp_path / "empty.jsonl").write_text("\n\n")
    (tmp_path / "typo.jsonl").write_text('{"id": 1, "txet": "a"}\n')
    (tmp_path / "nameless.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "text.parquet").write_text("no parquet")
    (tmp_path / "folder.parquet").mkdir()
    before = sorted(os.listdir(tmp_path))
    given = flags(service, Path("typo.jsonl"), Path("out"))
    done = command(tmp_path, *given, *(word for pair in changes.items() for word in pair))
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert sorted(os.listdir(tmp_path)) == before


def test_the_key_is_not_shown(service: Service, tmp_path: Path) -> None:
    given = settings(service, tmp_path, tmp_path, connection={"api_key": "secret"})
    assert "secret" not in repr(given)


@pytest.mark.parametrize(("package", "extra"), [("pyarrow", "reembed"), ("ray", "ray")])
def test_missing_packages(tmp_path: Path, service: Service, package: str, extra: str) -> None:
    source = write_corpus(tmp_path / "in.jsonl", 20)
    code = f"""
import sys
sys.modules[{package!r}] = None
from vlm2vec.command.main import main
sys.exit(main({[*flags(service, source, tmp_path / "out"), "--engine=ray"]!r}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"pip install 'vlm2vec-client[{extra}]'" in done.stderr
    assert "Traceback" not in done.stderr
