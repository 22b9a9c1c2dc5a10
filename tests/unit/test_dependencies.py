"""Server and client require what they import, and nothing else."""

import re
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests.unit.test_imports import OURS, ROOT, imported

CLIENT = OURS["vlm2vec"]
NAMES = {
    "PIL": "pillow", "git": "gitpython", "google": "protobuf", "grpc": "grpcio",
    "grpc_health": "grpcio-health-checking", "grpc_reflection": "grpcio-reflection", "jwt": "pyjwt",
    "mlflow": "mlflow-skinny", "vlm2vec": "vlm2vec-client", "yaml": "pyyaml",
}  # fmt: skip
"""The distribution of a package, where it is called otherwise."""
BROUGHT = {
    "gitpython": "mlflow-skinny", "pydantic-core": "pydantic", "starlette": "fastapi",
    "triton": "torch",
}  # fmt: skip
"""Distributions that come with another, as a part of it."""
UNSEEN = {"alembic", "boto3", "httptools", "mlflow", "sqlalchemy"}
"""What others import for us, MLflow and uvicorn, or what is a program of its own."""


def project(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    return found


def required(metadata: dict[str, Any]) -> set[str]:
    """The distributions of others that a project requires, with its extras for users."""
    extras: dict[str, list[str]] = metadata["optional-dependencies"]
    lines = sum(
        (lines for name, lines in extras.items() if name != "dev"), metadata["dependencies"]
    )
    found = {re.split(r"[\[<>=!~; ]", line)[0] for line in lines}
    return {name for name in found if not name.startswith("vlm2vec-")}


def imports(folders: list[Path]) -> set[str]:
    """The distributions of others that files of ``folders`` import, at any nesting level."""
    files = (file for folder in folders for file in folder.rglob("*.py"))
    packages = {name for file in files for name in imported(file.read_text())}
    found = {
        NAMES.get(name, name.replace("_", "-"))
        for name in packages - sys.stdlib_module_names - OURS.keys()
    }
    return {BROUGHT.get(name, name) for name in found}


@pytest.mark.parametrize(
    ("metadata", "folders"),
    [
        (project(CLIENT.parent), [CLIENT]),
        (project(ROOT), [path for path in OURS.values() if path != CLIENT]),
    ],
    ids=["client", "server"],
)
def test_what_is_imported_is_required_and_nothing_else(
    metadata: dict[str, Any], folders: list[Path]
) -> None:
    # OpenTelemetry is one package of many distributions.
    ours = {name for name in required(metadata) if not name.startswith("opentelemetry-")}
    assert ours - UNSEEN == imports(folders) - {"opentelemetry"}
