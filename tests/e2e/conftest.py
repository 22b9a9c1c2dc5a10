"""One server for all tests that leave it as it was: both parity checkpoints, all adapters; and a
client that speaks HTTP to it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.conftest import adapter_folder
from tests.e2e.cases import ARCHITECTURES
from tests.e2e.server import Server, running_server

DIMENSIONS = [1, 3, 16, 100]
"""Prefixes that the adapters of the server allow."""
CORS_ORIGIN = "https://app.example.com"
"""Whose pages may call the server."""


@pytest.fixture(scope="session")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models ``qwen`` and ``phi``, each with ``base``, ``lora`` (champion, canary) and ``dora``."""
    flags = []
    folder = tmp_path_factory.mktemp("server")
    for model, architecture in ARCHITECTURES.items():
        flags += ["--model", f"{model}={checkpoints / architecture}"]
        for version in ("lora", "dora"):
            adapter = shutil.copytree(
                adapter_folder(architecture, version), folder / f"{model}-{version}"
            )
            (adapter / "embedding.json").write_text(json.dumps({"dimensions": DIMENSIONS}))
            flags += ["--adapter", f"{model}/{version}={adapter}"]
        for alias in ("champion", "canary"):
            flags += ["--alias", f"{model}@{alias}=lora"]
    flags += ["--dtype", "float32", "--http-cors-origins", CORS_ORIGIN]
    with running_server(folder, *flags) as started:
        yield started


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    """A client of the server, for paths such as ``/v1/embeddings``."""
    with httpx.Client(base_url=f"http://{server.http_address}", timeout=60) as client:
        yield client
