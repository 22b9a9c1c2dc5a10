"""One server and one registry for all tests of evaluation."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import adapter_folder
from tests.e2e.server import Server, running_server


@pytest.fixture(scope="session")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Folders as the registry makes them of the parity adapters: with an ``embedding.json``."""
    folder = tmp_path_factory.mktemp("adapters")
    for name in ("lora", "dora"):
        shutil.copytree(adapter_folder("qwen2_vl", name), folder / name)
        (folder / name / "embedding.json").write_text('{"backbone": "qwen2_vl"}')
    return [folder / "lora", folder / "dora"]


@pytest.fixture(scope="session")
def server(
    checkpoints: Path, adapters: list[Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """Model ``qwen`` with versions 1 (champion) and 2 (canary)."""
    flags = [
        *("--model", f"qwen={checkpoints / 'qwen2_vl'}"),
        *("--adapter", f"qwen/1={adapters[0]}", "--adapter", f"qwen/2={adapters[1]}"),
        *("--alias", "qwen@champion=1", "--alias", "qwen@canary=2", "--dtype", "float32"),
    ]
    with running_server(tmp_path_factory.mktemp("server"), *flags) as started:
        yield started


@pytest.fixture(scope="session")
def registry_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for an SQLite store, which takes seconds to make."""
    return tmp_path_factory.mktemp("registry")
