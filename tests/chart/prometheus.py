"""The real Prometheus and its promtool, where they are installed."""

import contextlib
import json
import os
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.e2e.server import free_ports, wait_until

NEEDED = "needs Prometheus: apt-get install --no-install-recommends prometheus"


def find(program: str) -> str:
    """The path of ``prometheus`` or ``promtool``; without it a test is skipped, in CI it fails."""
    found = shutil.which(program)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(NEEDED)
        pytest.skip(NEEDED)
    return found


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Runs it; its status says what it thinks."""
    command = [find("promtool"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Prometheus:
    """A running one."""

    url: str

    def get(self, path: str, **parameters: str) -> Any:
        """The ``data`` of an answer of its API. Raises `urllib.error.HTTPError`."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=30) as answer:
            return json.load(answer)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query."""
        result: list[dict[str, Any]] = self.get("query", query=expression)["result"]
        return result


@contextlib.contextmanager
def running_prometheus(
    folder: Path, targets: Sequence[str], rules: Path | None = None
) -> Iterator[Prometheus]:
    """One that scrapes ``targets`` every second, with the labels that its operator would give."""
    program = find("prometheus")
    settings = {
        "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(rules)] if rules else [],
        "scrape_configs": [
            {
                "job_name": "vlm2vec",
                "static_configs": [
                    {"targets": [target], "labels": {"namespace": "test", "pod": f"pod-{index}-a"}}
                    for index, target in enumerate(targets)
                ],
            }
        ],
    }
    (folder / "prometheus.yaml").write_text(yaml.safe_dump(settings))
    (port,) = free_ports(1)
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(
            [
                program, f"--config.file={folder / 'prometheus.yaml'}",
                f"--web.listen-address=127.0.0.1:{port}", f"--storage.tsdb.path={folder / 'data'}",
            ],
            stderr=log, stdout=log,
        )  # fmt: skip
    running = Prometheus(f"http://127.0.0.1:{port}")
    try:

        def scraped() -> bool:
            assert process.poll() is None, (folder / "prometheus.log").read_text()
            with contextlib.suppress(OSError):
                return len(running.query("up == 1")) == len(targets)
            return False

        wait_until(scraped)
        yield running
    finally:
        process.terminate()
        process.wait(30)
