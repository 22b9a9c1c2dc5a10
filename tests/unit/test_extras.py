"""Where a package of an extra is missing, the error says what installs it."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from vlm2vec_demo.digits import MODEL
from vlm2vec_service.errors import StartError
from vlm2vec_service.extras import EXTRAS
from vlm2vec_service.supervision.devices import check_devices

WITHOUT = "import sys; sys.modules[{package!r}] = None; from vlm2vec_cli.main import main; main()"
"""A run of the command in which importing a package fails as it does where there is none."""


def test_a_command_that_needs_an_extra_says_so(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").touch()
    files = [f"--input={tmp_path / 'in.jsonl'}", f"--output={tmp_path / 'out.jsonl'}"]
    command = ["embed", f"--base={MODEL / 'base'}", f"--adapter=v1={MODEL / 'v1'}", *files]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT.format(package="torch"), *command],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    said = "torch is not installed; the extra worker brings it: pip install 'vlm2vec-serve[worker]'"
    assert done.stderr == f"Error: {said}\n"


@pytest.mark.parametrize("devices", [["cpu"], ["cuda:0"]])
def test_a_server_with_workers_of_its_own_needs_torch(
    devices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vlm2vec_service.extras.find_spec", lambda package: None)
    check_devices([])
    with pytest.raises(StartError, match="the extra worker brings it"):
        check_devices(devices)


def test_the_packages_are_there_by_these_names() -> None:
    assert all(importlib.util.find_spec(package) for package in EXTRAS)
