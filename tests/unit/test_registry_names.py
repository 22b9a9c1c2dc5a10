"""Models by whatever name people give them, and versions that MLflow copied, in a real store."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from tests.conftest import adapter_folder
from vlm2vec_cli.main import vlm2vec
from vlm2vec_registry import artifact, traffic
from vlm2vec_registry.errors import MissingError, RegistryInputError
from vlm2vec_registry.store import Registry

LORA = adapter_folder("qwen2_vl", "lora")
NAMES = [
    "o'clock", 'the "best"', """both ' and \"""", "two words", "a%2Fb", "100%", "日本語", "a\\b",
    "#1?", "a;b--c", "a", "A", "x" * 256,
]  # fmt: skip
REFUSED = [
    "", " ", "a/b", "a:b", "a@b", "a=b", ".", "..", " a", "a ", "a\nb", "\t", "x" * 257, "é" * 129,
    "\ud800", "a\u202eb",
]  # fmt: skip


@pytest.fixture
def away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of the test, in which nothing may appear."""
    folder = tmp_path / "away"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_models_are_found_by_any_name(checkpoints: Path, tmp_path: Path, away: Path) -> None:
    registry = Registry(str(tmp_path / "store"))
    for name in NAMES:
        made = registry.publish(name, LORA, base=checkpoints / "qwen2_vl", alias="canary")
        assert (made.model, made.name) == (name, "1")
    for name in NAMES:
        assert [version.model for version in registry.versions(name)] == [name]
        assert traffic.promote(registry, name, "canary") == "1"
        assert registry.snapshot(name).aliases == {"champion": "1"}
    assert registry.models() == sorted(NAMES)
    with pytest.raises(MissingError, match="nobody's"):
        registry.snapshot("nobody's")
    assert list(away.iterdir()) == []


def test_names_that_nobody_could_call_are_refused(checkpoints: Path, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "store"))
    for name in REFUSED:
        with pytest.raises(RegistryInputError, match="no name for a model; 1 to 256 bytes"):
            registry.publish(name, LORA, base=checkpoints / "qwen2_vl")
    for alias in ("7", "v7", "V12", "latest", "Latest", "a b", "a@b", "a/b", "x" * 256):
        with pytest.raises(RegistryInputError, match="no name for an alias"):
            registry.publish("model", LORA, base=checkpoints / "qwen2_vl", alias=alias)
    assert registry.models() == []
    assert registry.client.get_experiment_by_name("vlm2vec") is None


def test_a_copied_version_is_like_any_other(checkpoints: Path, tmp_path: Path, away: Path) -> None:
    store = tmp_path / "store"
    registry = Registry(str(store))
    base = checkpoints / "qwen2_vl"
    first = registry.publish("dev", LORA, base=base, metrics={"hit1": 0.5})
    for source, target in (("dev", "it's prod"), ("it's prod", "eu")):
        registry.client.copy_model_version(f"models:/{source}/1", target)
        copy = registry.version(target, "1")
        assert copy.uri == f"models:/{source}/1"
        assert (copy.space, copy.digests) == (first.space, first.digests)
        assert registry.metrics(copy) == {"hit1": 0.5}
        folder = tmp_path / target
        folder.mkdir()
        registry.download(copy, folder, 1 << 20)
        artifact.verify(folder, first.digests)
        traffic.promote(registry, target, "1")
        assert registry.snapshot(target).aliases == {"champion": "1"}
    run = CliRunner()
    for arguments in (("list",), ("show", "eu", "--version", "1"), ("diff", "eu", "1", "champion")):
        done = run.invoke(vlm2vec, ["adapters", "--registry", str(store), *arguments])
        assert done.exit_code == 0, done.output
        assert "eu" in done.output or arguments[0] == "diff"
    assert list(away.iterdir()) == []


def test_a_copy_without_a_run_has_no_metrics_but_all_else(
    checkpoints: Path, tmp_path: Path, away: Path
) -> None:
    registry = Registry(str(tmp_path / "store"))
    first = registry.publish("dev", LORA, base=checkpoints / "qwen2_vl")
    registry.client.create_registered_model("prod")
    registry.client.create_model_version("prod", "models:/dev/1", tags=first.tags)
    copy = registry.version("prod", "1")
    assert (copy.run_id, registry.metrics(copy)) == ("", {})
    (tmp_path / "files").mkdir()
    registry.download(copy, tmp_path / "files", 1 << 20)
    artifact.verify(tmp_path / "files", first.digests)
    assert registry.experiment(run_id=copy.run_id) == registry.experiment(run_id=first.run_id)
    shown = CliRunner().invoke(
        vlm2vec,
        ["adapters", "--registry", str(tmp_path / "store"), "show", "prod", "--version", "1"],
    )
    assert json.loads(shown.output)["metrics"] == {}
    assert list(away.iterdir()) == []


def test_an_experiment_that_another_makes_in_the_same_moment(tmp_path: Path) -> None:
    one, other = (Registry(str(tmp_path / "store")) for _ in range(2))
    look, made = one.client.get_experiment_by_name, list[str]()

    def before_the_other(name: str) -> Any:
        found = look(name)
        if not made:
            made.append(other.experiment("shared"))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(one.client, "get_experiment_by_name", before_the_other)
        assert [one.experiment("shared")] == made
