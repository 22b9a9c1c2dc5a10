"""What a model's owner sees on MLflow's pages, and the history of who changed its traffic."""

import getpass
import json
import shutil
from pathlib import Path

import pytest
from git import Repo

from tests.conftest import adapter_folder
from tests.unit.test_registry import MODEL, command
from vlm2vec_registry import card, lineage, publishing
from vlm2vec_registry.errors import OutageError
from vlm2vec_registry.history import EXPERIMENT, history, recorded
from vlm2vec_registry.snapshot import LOGGED_MODEL
from vlm2vec_registry.store import Registry

README = """---
license: mit
---
# An adapter

Reads digits.

## Scores

On test digits:

| task | v1 |
|---|---|
| which digit | 0.966 |

More words.

| another | table |
|---|---|
"""


@pytest.fixture(scope="module")
def store(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with versions 1, which has a model card, and 2 of `MODEL`."""
    folder = tmp_path_factory.mktemp("page")
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), folder / "dora")
    (folder / "dora" / "README.md").write_text(README)
    registry = Registry(str(folder / "store"))
    base = checkpoints / "qwen2_vl"
    registry.publish(MODEL, folder / "dora", base=base, metrics={"hit1": 0.5})
    registry.publish(MODEL, adapter_folder("qwen2_vl", "lora"), base=base)
    return folder / "store"


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Registry:
    """A registry of the test's own."""
    shutil.copytree(store, tmp_path / "store")
    return Registry(str(tmp_path / "store"))


def test_a_run_says_who_published_what(store: Path) -> None:
    registry = Registry(str(store))
    version = registry.version(MODEL, "1")
    run = registry.client.get_run(version.run_id)
    assert run.info.status == "FINISHED"
    assert run.data.tags["mlflow.user"] == version.tags["mlflow.user"] == getpass.getuser()
    assert run.data.tags["mlflow.source.name"]
    assert run.data.tags["version.vlm2vec-serve"]
    settings = json.loads((adapter_folder("qwen2_vl", "dora") / "adapter_config.json").read_text())
    expected = {"adapter": "dora", "rank": str(settings["r"]), "alpha": str(settings["lora_alpha"])}
    assert expected.items() <= run.data.params.items()
    assert (run.data.params["backbone"], run.data.params["base_model"]) == ("qwen2_vl", "qwen2_vl")
    experiment = registry.client.get_experiment(run.info.experiment_id)
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"


def test_a_version_is_a_logged_model(store: Path) -> None:
    registry = Registry(str(store))
    version = registry.version(MODEL, "1")
    model = registry.client.get_logged_model(version.tags[LOGGED_MODEL])
    assert str(model.status) == "READY"
    assert model.source_run_id == version.run_id
    assert json.loads(model.tags["mlflow.modelVersions"]) == [{"name": MODEL, "version": 1}]
    assert {metric.key: metric.value for metric in model.metrics or []} == {"hit1": 0.5}
    assert model.params["adapter"] == "dora"
    assert model.tags["mlflow.user"] == getpass.getuser()
    outputs = registry.client.get_run(version.run_id).outputs
    assert outputs is not None
    assert [output.model_id for output in outputs.model_outputs] == [model.model_id]
    found = registry.client.search_model_versions("tags.`vlm2vec.adapter` = 'dora'")
    assert [str(item.version) for item in found] == ["1"]


def test_a_version_is_described(store: Path) -> None:
    described = Registry(str(store)).client.get_model_version(MODEL, "1").description
    assert described is not None
    assert "| Base | qwen2_vl (qwen2_vl) |" in described
    assert "| Adapter | dora, rank " in described
    assert f"| Published by | {getpass.getuser()} |" in described
    assert "**Scores**\n\n| task | v1 |\n|---|---|\n| which digit | 0.966 |" in described
    assert "another" not in described


def test_what_people_write_stays_in_a_description() -> None:
    text = card.with_part("Mine.", "scores", "0.5")
    again = card.with_part(text + "\n\nAlso mine.", "scores", "0.75")
    assert again.startswith("Mine.")
    assert again.endswith("Also mine.")
    assert "0.75" in again
    assert "0.5" not in again
    assert card.with_part(text, "long", "x" * card.MOST_CHARACTERS) == text


def test_a_publication_that_fails_says_so(
    own: Registry, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: object) -> None:
        raise OutageError("away")

    monkeypatch.setattr(publishing, "log_model", away)
    with pytest.raises(OutageError, match="away"):
        own.publish(MODEL, adapter_folder("qwen2_vl", "lora"), base=checkpoints / "qwen2_vl")
    (run, *_) = own.client.search_runs([own.experiment()])
    assert run.info.status == "FAILED"
    assert len(own.versions(MODEL)) == 2


def test_the_commit_is_that_of_the_folder(tmp_path: Path) -> None:
    assert lineage._commit(tmp_path) == {}
    repository = Repo.init(tmp_path)
    assert lineage._commit(tmp_path) == {}  # without a commit
    (tmp_path / "train.yaml").write_text("x: {path: x}")
    repository.index.add(["train.yaml"])
    commit = repository.index.commit("Train on x")
    repository.create_remote("origin", "https://ann:s3cret@git.example.com/x.git")
    (tmp_path / "deeper").mkdir()
    tags = lineage._commit(tmp_path / "deeper")
    assert tags["mlflow.source.git.commit"] == commit.hexsha
    assert tags["mlflow.source.git.dirty"] == "false"
    assert tags["mlflow.source.git.repoURL"] == "https://***@git.example.com/x.git"
    (tmp_path / "train.yaml").write_text("x: {path: y}")
    assert lineage._commit(tmp_path)["mlflow.source.git.dirty"] == "true"


def test_the_history_says_who_did_what(own: Registry, tmp_path: Path) -> None:
    store = tmp_path / "store"
    for arguments in (
        ("promote", MODEL, "--version", "1"),
        ("canary", MODEL, "--version", "2", "--share", "5%"),
        ("shadow", MODEL, "--version", "2"),
        ("promote", MODEL, "--version", "2"),
        ("rollback", MODEL),
        ("shadow", MODEL, "--off"),
    ):
        assert command(store, *arguments).exit_code == 0
    events = history(own, MODEL)
    assert [(event.action, event.version, event.before, event.note) for event in events] == [
        ("shadow --off", "", "", ""),
        ("rollback", "1", "2", ""),
        ("promote", "2", "1", ""),
        ("shadow", "2", "", ""),
        ("canary", "2", "", "5.0%"),
        ("promote", "1", "", ""),
        ("publish", "2", "", ""),
        ("publish", "1", "", ""),
    ]
    assert {event.who for event in events} == {getpass.getuser()}
    assert {event.status for event in events} == {"FINISHED"}
    shown = command(store, "history", MODEL)
    assert "rollback" in shown.output
    assert "which none of these commands" not in shown.output
    own.set_alias(MODEL, "champion", "2")  # as MLflow's page would
    assert "champion is 2 now, which none of these" in command(store, "history", MODEL).output


def test_a_verdict_is_noted_either_way(own: Registry, tmp_path: Path) -> None:
    ready = tmp_path / "ready.json"
    ready.write_text("{}")
    flags = ("promote", MODEL, "--version", "1", "--require-space-ready", ready)
    assert command(tmp_path / "store", *flags).exit_code == 3
    assert own.snapshot(MODEL).aliases == {}
    assert own.version(MODEL, "1").tags["vlm2vec.gate"].startswith("refused: ")
    (event, *_) = history(own, MODEL)
    assert event.note.startswith("refused: ")
    assert not event.made_champion
    assert own.client.search_runs([own.experiment(EXPERIMENT)])[0].info.run_name == (
        f"promote {MODEL} 1, refused"
    )


def test_a_change_that_fails_is_in_the_history(own: Registry) -> None:
    with pytest.raises(OutageError), recorded(own, MODEL, "promote", "1"):
        raise OutageError("away")
    (event, *_) = history(own, MODEL)
    assert (event.action, event.status, event.made_champion) == ("promote", "FAILED", False)
