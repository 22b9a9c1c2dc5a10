"""The image's recipe: linted, and as the chart needs it."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.chart.rendering import ROOT, one, render

DOCKERFILE = ROOT / "docker" / "Dockerfile"


def hadolint(path: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("hadolint")
    command = [str(program), "--failure-threshold", "style", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_hadolint_finds_nothing() -> None:
    result = hadolint(DOCKERFILE)
    assert result.returncode == 0, result.stdout


def test_hadolint_finds_something(tmp_path: Path) -> None:
    (tmp_path / "Dockerfile").write_text("FROM debian:latest\nRUN cd /tmp\n")
    assert hadolint(tmp_path / "Dockerfile").returncode != 0


def test_what_is_built_is_copied() -> None:
    """The folders of the distribution are in the build's context."""
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    }
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert {package.partition("/")[0] for package in packages} <= kept
    assert {"pyproject.toml", "constraints.txt", "clients/python", "README.md"} <= kept


def test_the_pod_runs_as_the_image_s_user() -> None:
    (user, group) = re.findall(r"^USER (\d+):(\d+)$", DOCKERFILE.read_text(), re.MULTILINE)[0]
    pod = one(render("default"), "Deployment")["spec"]["template"]["spec"]
    assert pod["securityContext"]["runAsUser"] == int(user)
    assert pod["securityContext"]["runAsGroup"] == int(group)
