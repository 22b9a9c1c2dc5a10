"""What the docs name exists: files of CONTRIBUTING, entries of README's Layout, links between
docs."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SERVICE = ROOT / "service" / "vlm2vec_service"
DOCS = [
    *ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "clients/python/README.md",
    ROOT / "helm/vlm2vec-serve/README.md",
]  # fmt: skip


def test_the_table_of_contributing_names_files_that_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    named = [path for path in re.findall(r"`([\w./-]+)`", text) if "/" in path]
    assert len(named) > 25
    assert [path for path in named if not (ROOT / path).exists()] == []


def layout() -> list[tuple[int, list[str]]]:
    """The entries of README's Layout: the depth of each line, and the names on it."""
    text = (ROOT / "README.md").read_text().split("## Layout")[1].split("```")[1]
    entries = []
    for line in text.strip("\n").splitlines():
        names = re.match(r" {0,8}([\w./]+(?:, [\w./]+)*)(?=  |$)", line)
        if names:
            entries.append(((len(line) - len(line.lstrip())) // 4, names[1].split(", ")))
    return entries


def test_the_layout_of_readme_lists_every_entry() -> None:
    top = {
        name.strip("/").split("/")[0] for depth, names in layout() if not depth for name in names
    }
    folders = {path.name for path in ROOT.iterdir() if path.is_dir()}
    generated = {"build", "dist", "example"}
    assert top == {name for name in folders if not name.startswith(".")} - generated
    service = {name.strip("/") for depth, names in layout() if depth == 1 for name in names}
    there = {path.name for path in SERVICE.iterdir() if not path.name.startswith("__")}
    assert service == there


@pytest.mark.parametrize("path", DOCS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text())
    assert [target for target in targets if not (path.parent / target).exists()] == []
