"""One server that asks for credentials, for all tests of this folder that leave it running."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.auth.guarded import Guarded, running_guarded


@pytest.fixture(scope="package")
def guarded(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    """The server; in the end its log must have no credential that any of the tests sent."""
    with running_guarded(checkpoints, tmp_path_factory.mktemp("guarded")) as started:
        yield started
    started.assert_no_secret_is_logged()
