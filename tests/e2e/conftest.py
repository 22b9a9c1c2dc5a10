"""One server for all tests that leave it as it was: both parity checkpoints, all adapters."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import adapter_folder
from tests.e2e.cases import ARCHITECTURES
from tests.e2e.server import Server, running_server


@pytest.fixture(scope="session")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models ``qwen`` and ``phi``, each with ``base``, ``lora`` (champion, canary) and ``dora``."""
    flags = []
    for model, architecture in ARCHITECTURES.items():
        flags += ["--model", f"{model}={checkpoints / architecture}"]
        for version in ("lora", "dora"):
            flags += ["--adapter", f"{model}/{version}={adapter_folder(architecture, version)}"]
        for alias in ("champion", "canary"):
            flags += ["--alias", f"{model}@{alias}=lora"]
    folder = tmp_path_factory.mktemp("server")
    with running_server(folder, *flags, "--dtype", "float32") as started:
        yield started
