"""``vlm2vec evaluate`` as users run it: with a server, a registry, and a kill in the middle."""

import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from tests.conftest import adapter_folder
from tests.e2e.server import COMMAND, Server, wait_until
from tests.evaluation import small
from vlm2vec import Client, Input
from vlm2vec_cli.adapters.group import adapters as adapters_command
from vlm2vec_cli.evaluate import evaluate as evaluate_command
from vlm2vec_evaluation import EvaluationError, Record, Task, evaluate, gate
from vlm2vec_evaluation.vector_file import HEADER
from vlm2vec_registry.store import Registry

INPUTS = {"classes": 6 + 3, "questions": 2 + 5, "captions": 3 + 6, "crops": 2 + 5}
"""Distinct queries and candidates of each data set."""
RECORD = 32 + 4 + 4 * 128
ENVIRONMENT = {key: value for key, value in os.environ.items() if "VLM2VEC" not in key}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    return small.write_suite(tmp_path / "suite")


def command(*flags: str | Path) -> list[str]:
    return [str(COMMAND), "evaluate", *map(str, flags)]


def process(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        command(*flags), capture_output=True, text=True, check=False, env=ENVIRONMENT
    )


def run(*flags: str | Path) -> str:
    """The command in this process, which has imported all it needs; what it printed."""
    result = CliRunner().invoke(evaluate_command, [str(flag) for flag in flags])
    assert result.exception is None, result.exception
    return result.stdout


def refusal(*flags: str | Path) -> str:
    """What the command says that it cannot do."""
    result = CliRunner().invoke(evaluate_command, [str(flag) for flag in flags])
    if isinstance(result.exception, EvaluationError):
        return str(result.exception)
    assert result.exit_code == 2
    return result.stderr


def scores(path: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads(path.read_text())
    return values


def asked(server: Server) -> float:
    """Inputs that the server has embedded, once it has nothing more to do."""
    # A client that was killed is gone once its stream is.
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    return server.metric("inputs_total", code="OK")


def test_service_and_engine_give_the_same_scores(
    server: Server, suite: Path, tmp_path: Path, checkpoints: Path, adapters: list[Path]
) -> None:
    remote = process(
        *("--target", server.address, "--model", "qwen@canary", "--suite", suite),
        *("--cache", tmp_path / "remote", "--output", tmp_path / "remote.json"),
    )
    assert remote.returncode == 0, remote.stderr
    run(
        *("--local", "--base", checkpoints / "qwen2_vl"),
        *("--adapter", adapters[1], "--dtype", "float32"),
        *("--suite", suite, "--cache", tmp_path / "local", "--output", tmp_path / "local.json"),
    )
    one, two = scores(tmp_path / "remote.json"), scores(tmp_path / "local.json")
    assert one["version"] == "2"
    for key in ("space", "suite", "suite_digest", "averages", "data_sets"):
        assert one[key] == two[key]
    assert {name: row["queries"] for name, row in one["data_sets"].items()} == {
        "classes": 6, "questions": 2, "captions": 3, "crops": 2,
    }  # fmt: skip
    lines = remote.stdout.splitlines()
    assert lines[0] == f"qwen version 2, space {one['space']}: small"
    assert lines[2].split()[:6] == ["data", "set", "meta-task", "split", "queries", "hit@1"]
    table = {line.split()[0]: line.split() for line in lines[3:] if line}
    row = one["data_sets"]["captions"]
    assert table["captions"][1:5] == ["retrieval", "ind", "3", f"{row['hit1']:.4f}"]
    assert table["overall"][1] == f"{one['averages']['overall']['hit1']:.4f}"
    vectors = [
        path / f"{one['space']}.vectors" for path in (tmp_path / "remote", tmp_path / "local")
    ]
    sizes = {path.stat().st_size for path in vectors}
    assert sizes == {HEADER.size + RECORD * sum(INPUTS.values())}


def test_a_killed_evaluation_goes_on_where_it_was(
    server: Server, suite: Path, tmp_path: Path
) -> None:
    rows = small.classification()
    # Many, so that there is something left to do whenever the kill comes.
    rows[0]["tgt_text"] = [f"{number} boats" for number in range(300)]
    small.lines(suite.parent / "classes.jsonl", rows)
    total = sum(INPUTS.values()) + 300
    flags = (
        *("--target", server.address, "--model", "qwen@1", "--suite", suite),
        *("--cache", tmp_path / "cache", "--output", tmp_path / "scores.json"),
    )

    def count() -> int:
        files = list((tmp_path / "cache").glob("*.vectors"))
        return max(0, files[0].stat().st_size - HEADER.size) // RECORD if files else 0

    with subprocess.Popen(command(*flags, "--window", "1"), env=ENVIRONMENT) as killed:
        wait_until(lambda: count() >= 3, pause=0.001)
        killed.send_signal(signal.SIGKILL)
    assert killed.returncode == -signal.SIGKILL
    kept = count()
    assert 3 <= kept < total
    before = asked(server)
    run(*flags)
    assert asked(server) - before == total - kept
    resumed = scores(tmp_path / "scores.json")
    before = asked(server)
    run(*flags, "--cache", tmp_path / "fresh")
    assert asked(server) - before == total
    assert scores(tmp_path / "scores.json") == resumed
    # Changed data ask for what is new alone.
    rows[1]["tgt_text"].append("pagoda")
    small.lines(suite.parent / "classes.jsonl", rows)
    before = asked(server)
    run(*flags)
    assert asked(server) - before == 1


def test_recorded_evaluations_decide_a_promotion(
    server: Server, suite: Path, tmp_path: Path, checkpoints: Path, registry_folder: Path
) -> None:
    registry = Registry(str(registry_folder))
    for name, alias in (("lora", "champion"), ("dora", "canary")):
        registry.publish(
            "qwen", adapter_folder("qwen2_vl", name), base=checkpoints / "qwen2_vl", alias=alias
        )
    requirement = gate.parse(f"{suite}:max_drop=1")
    assert "has no recorded evaluation" in gate.check(registry, "qwen", "2", requirement)[0]
    flags = (
        *("--target", server.address, "--suite", suite, "--cache", tmp_path / "cache"),
        *("--record", "--registry", registry_folder),
    )
    for version in ("champion", "2"):
        printed = run(*flags, "--model", f"qwen@{version}")
        assert "\nrecorded on qwen version " in printed
    assert gate.check(registry, "qwen", "canary", requirement) == []
    impossible = gate.parse(f"{suite}:max_drop=1,min_hit1=1")
    assert gate.check(registry, "qwen", "canary", impossible)[0].startswith("overall hit@1 is 0.")
    promote = ("--registry", registry_folder, "promote", "qwen", "--version", "canary", "--require")
    asked_for = [*map(str, promote), f"{suite}:max_drop=1,min_hit1=1"]
    refused = CliRunner().invoke(adapters_command, asked_for)
    assert refused.exit_code == 3
    assert "min_hit1 is 1.0000" in refused.stderr
    assert registry.version("qwen", "champion").name == "1"
    accepted = CliRunner().invoke(adapters_command, [*map(str, promote), f"{suite}:max_drop=1"])
    assert accepted.exit_code == 0, accepted.output
    assert registry.version("qwen", "champion").name == "2"
    assert "version 'base'; there are 1, 2, champion" in refusal(*flags, "--model", "qwen@base")
    # What is embedded here has no adapter, unlike version 1.
    found = refusal(
        *("--local", "--base", checkpoints / "qwen2_vl", "--model", "qwen@1"), *flags[2:]
    )
    assert "qwen version 1 has space" in found


def test_in_memory_with_a_client(server: Server, tmp_path: Path) -> None:
    small.write_suite(tmp_path / "suite")
    pictures = [
        Input(images=[tmp_path / "suite" / "pictures" / f"{index}.png"]) for index in range(3)
    ]
    # A picture is nearest to itself.
    tasks = [
        Task(
            "same", "retrieval", [Record(item, pictures, (i,)) for i, item in enumerate(pictures)]
        ),
        Task("words", "vqa", [Record(pictures[0], ["a temple", "a flower"], (1,))], "ood"),
    ]
    with Client(server.address) as client:
        found = evaluate(client, tasks)
        query, *answers = client.embed([pictures[0], "a temple", "a flower"])
    assert found.averages["retrieval"].hit1 == 1.0
    assert found.averages["vqa"].hit1 == float(np.argmax(np.stack(answers) @ query) == 1)
    assert found.averages["overall"].chance == pytest.approx((1 / 3 + 1 / 2) / 2)


def test_what_cannot_be_done_is_said(
    server: Server, suite: Path, tmp_path: Path, checkpoints: Path
) -> None:
    base = ("--target", server.address, "--suite", suite, "--cache", tmp_path / "cache")
    for flags, problem in (
        (("--model", "qwen@9"), "no version or alias '9'; there are base, 1, 2, canary, champion"),
        (("--model", "phi"), "a model 'phi' is not served; there are qwen"),
        (("--only", "none"), "suite small has no none; it has classes, questions, captions, crops"),
        (("--record", "--limit", "1"), "--record is for whole evaluations"),
        (("--local",), "--local needs --base"),
        (("--base", checkpoints / "qwen2_vl"), "--base and --adapter are for --local"),
        (("--data", checkpoints), "data set classes: .*classes.jsonl does not exist"),
        (("--output", tmp_path / "no" / "a.json"), "the folder .*no does not exist"),
    ):
        assert re.search(problem, refusal(*base, *flags))
    picture = suite.parent / "pictures" / "5.png"
    picture.write_text("no picture")
    found = refusal(*base, "--only", "captions")
    assert "captions: 1 of 9 inputs have no vector, the first <|image_pad|> " in found
    assert str(picture) in found
    picture.unlink()
    done = process(*base)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"cannot read {str(picture)!r}" in done.stderr
