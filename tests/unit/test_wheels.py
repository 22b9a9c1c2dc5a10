"""The wheels of server and client work where nothing else of ours is."""

import importlib.metadata
import os
import re
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

import vlm2vec

ROOT = Path(__file__).parents[2]
CLIENT = ROOT / "clients" / "python"
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The programs of an environment with our two wheels, and what else this one has."""
    folder = tmp_path_factory.mktemp("wheels")
    # The environment has what builds and no network; `make dist` lets pip fetch it.
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    build = [*pip, "wheel", "--no-build-isolation", "--no-deps", "--no-index"]
    subprocess.run(
        [*build, "--wheel-dir", folder / "dist", CLIENT, ROOT], check=True, capture_output=True
    )
    wheels = list((folder / "dist").glob("*.whl"))
    assert len(wheels) == 2
    venv.create(folder / "venv", symlinks=True)
    programs = folder / "venv" / "bin"
    install = [*pip, "--python", str(programs / "python"), "install", "--no-deps", "--no-index"]
    subprocess.run([*install, *map(str, wheels)], check=True, capture_output=True)
    (site,) = (folder / "venv").glob("lib/python*/site-packages")
    others = Path(str(importlib.metadata.distribution("numpy").locate_file("")))
    # A path that a .pth file adds is searched for packages, not for further .pth files such as
    # those by which a checkout is installed.
    (site / "others.pth").write_text(f"{others}\n")
    return programs


def run(program: Path, *arguments: str | Path, folder: Path) -> str:
    given = {name: value for name, value in os.environ.items() if name[:7] != "VLM2VEC"}
    given.pop("PYTHONPATH", None)
    given["OMP_NUM_THREADS"] = "1"
    done = subprocess.run(
        [program, *arguments], cwd=folder, env=given, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_programs_of_the_wheels_say_which_they_are(environment: Path, tmp_path: Path) -> None:
    server = run(environment / "vlm2vec", "--version", folder=tmp_path)
    client = run(environment / "vlm2vec-client", "--version", folder=tmp_path)
    assert server == f"vlm2vec, version {VERSION}\n"
    assert client == f"vlm2vec-client {vlm2vec.__version__}\n"
    for program in ("vlm2vec", "vlm2vec-client"):
        assert "embed" in run(environment / program, "--help", folder=tmp_path)


def test_the_wheels_embed_with_the_model_that_ships(environment: Path, tmp_path: Path) -> None:
    where = "import vlm2vec_demo.digits as digits; print(digits.MODEL)"
    model = Path(run(environment / "python", "-c", where, folder=tmp_path).strip())
    assert model.is_relative_to(environment.parent)
    (tmp_path / "in.jsonl").write_text('{"id": 1, "text": "a red seven"}\n')
    flags: list[str | Path] = [
        "--base",
        model / "base",
        "--adapter",
        f"v1={model / 'v1'}",
        "--input",
        "in.jsonl",
    ]
    run(environment / "vlm2vec", "embed", *flags, "--output", "out.jsonl", folder=tmp_path)
    assert '"vector"' in (tmp_path / "out.jsonl").read_text()


def test_the_versions_are_one(environment: Path) -> None:
    chart = (ROOT / "helm" / "vlm2vec-serve" / "Chart.yaml").read_text()
    changes = re.findall(r"(?m)^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text())
    assert vlm2vec.__version__ == VERSION == changes[0]
    assert f'appVersion: "{VERSION}"' in chart
    built = {path.name.split("-")[1] for path in (environment.parents[1] / "dist").iterdir()}
    assert built == {VERSION}
