"""The workflow that publishes: what it may do, and its scripts, run here."""

import os
import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.chart.rendering import CHART, ROOT

WORKFLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def script(job: str, name: str) -> str:
    (found,) = [s["run"] for s in JOBS[job]["steps"] if s.get("name", "").startswith(name)]
    return str(found)


def run(text: str, folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    """Runs a step as GitHub does, in a folder with what the repository says of its version."""
    (folder / "helm/vlm2vec-serve").mkdir(parents=True, exist_ok=True)
    for name in ("pyproject.toml", "helm/vlm2vec-serve/Chart.yaml"):
        (folder / name).write_text((ROOT / name).read_text())
    changes = (ROOT / "CHANGELOG.md").read_text().replace("- Unreleased", "- 2026-11-26")
    (folder / "CHANGELOG.md").write_text(changes + "\n## [0.0.1] - 2026-01-01\n\n- old\n")
    return subprocess.run(
        ["bash", "-eo", "pipefail", "-c", text],
        env={"PATH": os.environ["PATH"], "GITHUB_REF_NAME": tag},
        cwd=folder, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_tag_of_another_version_publishes_nothing(tmp_path: Path) -> None:
    check = script("check", "The tag is the version")
    assert run(check, tmp_path, f"v{VERSION}").returncode == 0
    assert run(check, tmp_path, "v99.0.0").returncode != 0
    # Nothing runs that does not wait for it, or for one that does.
    assert {name for name, job in JOBS.items() if "needs" not in job} == {"check"}


def test_a_release_says_what_changed_in_it(tmp_path: Path) -> None:
    text = script("release", "Release").partition("gh release")[0]
    assert run(text, tmp_path, f"v{VERSION}").returncode == 0
    notes = (tmp_path / "notes.md").read_text()
    assert "### Added" in notes
    assert "- old" not in notes
    assert f"[{VERSION}]" not in notes


def test_the_published_chart_s_image_is_the_published_one(tmp_path: Path) -> None:
    line = next(line for line in script("chart", "Publish").splitlines() if line.startswith("sed"))
    (tmp_path / "helm/vlm2vec-serve").mkdir(parents=True)
    values = tmp_path / "helm/vlm2vec-serve/values.yaml"
    values.write_text((CHART / "values.yaml").read_text())
    assert run(f"REGISTRY=registry.example.com/team; {line}", tmp_path, "v1").returncode == 0
    image = yaml.safe_load(values.read_text())["image"]
    assert image["repository"] == "registry.example.com/team/vlm2vec-serve"


@pytest.mark.parametrize("job", JOBS)
def test_jobs_may_do_what_they_have_to_and_prove_what_they_made(job: str) -> None:
    assert WORKFLOW["permissions"] == {}
    writes = {key for key, value in JOBS[job]["permissions"].items() if value == "write"}
    used = [step["uses"] for step in JOBS[job]["steps"] if "uses" in step]
    assert all(re.fullmatch(r"[\w.-]+/[\w.-]+@(v\d+|release/v1)", one) for one in used)
    if job in {"wheels", "image", "chart"}:
        assert writes == {"id-token", "attestations"}
        assert any(one.startswith("actions/attest-build-provenance@") for one in used)
    else:
        assert writes == ({"contents"} if job == "release" else set())
