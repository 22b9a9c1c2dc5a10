"""What names a folder or a model of the hub, and what a checkpoint is called."""

from pathlib import Path

import click
import pytest

from vlm2vec_registry.hub import HubId, named
from vlm2vec_service.folders import here, source


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A working directory with nothing in it."""
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("given", "repository", "revision"),
    [
        ("Qwen/Qwen2-VL-2B-Instruct", "Qwen/Qwen2-VL-2B-Instruct", None),
        ("VLM2Vec/VLM2Vec-V2.0@main", "VLM2Vec/VLM2Vec-V2.0", "main"),
        ("a/b@refs/pr/1", "a/b", "refs/pr/1"),
        ("a_1/b.c-d@895c3a4", "a_1/b.c-d", "895c3a4"),
    ],
)
def test_ids_of_the_hub(given: str, repository: str, revision: str | None, elsewhere: None) -> None:
    id = source(given)
    assert id == HubId(repository, revision)
    assert str(id) == given
    Path(given).mkdir(parents=True)  # a folder of that name goes before
    assert source(given) == Path(given)
    assert here(source(given), ["nothing is fetched"]) == Path(given)


@pytest.mark.parametrize(
    "given",
    [
        "a/file", "none", "./a/b", "../a", "/a/b", "a/b/", "a/b/c", "a/b@", "a/@c", "~/b", "a/b c",
        "ö/b", "https://huggingface.co/a/b",
    ],
)  # fmt: skip
def test_what_is_neither_names_both(given: str, elsewhere: None) -> None:
    Path("a").mkdir()
    Path("a/file").touch()
    with pytest.raises(click.BadParameter, match="is no folder here, and no id of a model on the"):
        source(given)


def test_checkpoints_have_names_for_people(tmp_path: Path) -> None:
    cached = tmp_path / "models--Qwen--Qwen2-VL-2B-Instruct" / "snapshots" / "895c3a4"
    cached.mkdir(parents=True)
    assert named(cached) == ("Qwen/Qwen2-VL-2B-Instruct", "895c3a4")
    assert named(cached.parent) == ("snapshots", None)
    assert named(cached.parent / ".." / "snapshots") == ("snapshots", None)
    (tmp_path / "link").symlink_to(cached)
    assert named(tmp_path / "link") == ("Qwen/Qwen2-VL-2B-Instruct", "895c3a4")
