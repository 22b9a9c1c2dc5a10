"""The table of docs/clients.md names tests that exist, and versions that they run with."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in (ROOT / "docs" / "clients.md").read_text().splitlines()
    if "::" in line
]
PINS = {
    line.split("==")[0].replace("_", "-"): line.split("==")[1]
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if "==" in line
}


def test_every_client_is_there() -> None:
    assert len(ROWS) >= 20


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_test_that_is_named_exists(row: list[str]) -> None:
    path, name = row[-1].strip("`| ").split("::")
    assert re.search(rf"^(async )?def {name}\(", (ROOT / path).read_text(), re.MULTILINE)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_version_is_the_one_that_is_pinned(row: list[str]) -> None:
    if row[1] == "all" or "by hand" in row[1] or row[0].startswith("vlm2vec-client"):
        return
    packages = re.split(r"[,:] ", row[0])
    for package, version in zip(packages, row[1].split(", "), strict=False):
        assert PINS[package] == version
