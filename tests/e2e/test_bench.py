"""``vlm2vec bench`` on a running server, over every way, as a process of its own."""

import json
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from click.testing import CliRunner

from tests.e2e.server import COMMAND, Server, free_ports, wait_until
from vlm2vec_cli.main import vlm2vec

PICTURES = Path(__file__).parents[2] / "examples" / "digits"


def bench(*flags: str | Path) -> subprocess.CompletedProcess[str]:
    command = [COMMAND, "bench", "--timeout", "30", *flags]
    return subprocess.run(command, text=True, capture_output=True, check=False, timeout=120)


@pytest.mark.parametrize(
    ("way", "flags"),
    [
        ("unary", ["--batch", "3"]),
        ("stream", []),
        ("http", ["--pictures", PICTURES, "--instruction", "Represent the given image."]),
    ],
)
def test_what_it_counts_is_what_the_server_answered(
    server: Server, tmp_path: Path, way: str, flags: list[str | Path]
) -> None:
    address = server.http_address if way == "http" else server.address
    output, plot = tmp_path / "out.json", tmp_path / "plot.svg"
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    before = server.metric("inputs_total", code="OK")
    result = bench(
        "--server", address, "--over", way, "--model", "qwen@dora", "--seconds", "0.5",
        "--at-once", "2", "--rate", "5", "--output", output, "--plot", plot, *flags,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    rows: list[dict[str, Any]] = json.loads(output.read_bytes())
    assert [row["load"] for row in rows] == ["closed, 2 at once", "open, 5/s"]
    for row in rows:
        assert row["errors"] == {}
        assert row["load"] in result.stdout
    assert 0 < rows[0]["p50"] <= rows[0]["p99"]
    wait_until(lambda: server.metric("requests_in_flight") == 0)
    # One request goes ahead of all.
    ahead = 3 if way == "unary" else 1
    answered = sum(row["answered"] for row in rows) + ahead
    assert server.metric("inputs_total", code="OK") - before == answered
    ElementTree.fromstring(plot.read_text())


def test_who_does_not_answer_is_said(server: Server) -> None:
    nobody = f"127.0.0.1:{free_ports(1)[0]}"
    for flags, said in (
        (["--server", server.address, "--model", "none"], "NOT_FOUND: "),
        (["--server", server.http_address, "--over", "http", "--model", "none"], "NOT_FOUND: "),
        (["--server", nobody, "--over", "http"], "UNAVAILABLE: "),
        (["--server", nobody], "UNAVAILABLE: "),
    ):
        result = CliRunner().invoke(vlm2vec, ["bench", *flags])
        assert result.exit_code == 1
        assert f"Error: {flags[1]}: {said}" in result.output
