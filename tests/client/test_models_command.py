"""``vlm2vec-client models`` and ``--version`` as a user runs them."""

from pathlib import Path

import vlm2vec
from tests.client.server import Service
from tests.client.test_command import run


def test_models(tmp_path: Path, service: Service) -> None:
    done = run(tmp_path, "models", "--server", service.address)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "model    version  space    aliases\nmade-up  1        space-1  champion\n"
    )


def test_version(tmp_path: Path) -> None:
    assert run(tmp_path, "--version").stdout == f"vlm2vec-client {vlm2vec.__version__}\n"
