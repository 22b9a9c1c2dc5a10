"""One server for all tests of this folder that leave it alive."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.watched import watched_server
from tests.e2e.server import Server


@pytest.fixture(scope="package")
def server(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server; its worker may be another one than at the start, because a test kills it."""
    with watched_server(checkpoints, tmp_path_factory.mktemp("server")) as started:
        yield started
