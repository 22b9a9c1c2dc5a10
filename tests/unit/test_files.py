"""Files and folders that appear whole, or not at all."""

import os
from pathlib import Path

import pytest

from vlm2vec_registry.files import sync, whole, write_whole


def test_the_former_file_stays_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("former")
    with whole(path) as partial:
        partial.write_text("new")
        assert path.read_text() == "former"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_its_name_with_all_that_is_in_it(tmp_path: Path) -> None:
    path = tmp_path / "a"
    with whole(path) as partial:
        partial.mkdir()
        (partial / "b").write_text("b")
        assert not path.exists()
    assert (path / "b").read_text() == "b"
    assert list(tmp_path.iterdir()) == [path]


def half_written(path: Path, folder: bool) -> None:
    with whole(path) as partial:
        partial.mkdir() if folder else partial.write_text("half")
        raise RuntimeError("stopped")


@pytest.mark.parametrize("folder", [False, True])
def test_nothing_is_left_after_an_exception(tmp_path: Path, folder: bool) -> None:
    with pytest.raises(RuntimeError, match="stopped"):
        half_written(tmp_path / "a", folder)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_is_removed_first(tmp_path: Path) -> None:
    (tmp_path / ".a.part").mkdir()
    (tmp_path / ".a.part" / "old").write_text("old")
    with whole(tmp_path / "a") as partial:
        assert not partial.exists()
        partial.mkdir()
    assert list((tmp_path / "a").iterdir()) == []


def test_text_is_written_over_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for text in ("long former text", "new"):
        write_whole(path, text)
        assert path.read_text() == text
    sync(path)
    sync(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_text_that_cannot_be_written_leaves_the_former(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError("no space left")

    path = tmp_path / "a.txt"
    write_whole(path, "former")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, "new")
    assert path.read_text() == "former"
    assert list(tmp_path.iterdir()) == [path]


def test_the_reason_is_told_why_a_file_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        write_whole(tmp_path / "missing" / "a.txt", "text")
