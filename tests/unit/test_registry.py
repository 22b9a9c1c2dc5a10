"""The registry on an embedded MLflow store: what is published, and who gets the traffic."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tests.conftest import adapter_folder
from vlm2vec_cli.main import vlm2vec
from vlm2vec_registry import artifact, preset, traffic
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import ArtifactError, MissingError, OutageError
from vlm2vec_registry.snapshot import Snapshot
from vlm2vec_registry.space import base_digest, space_of
from vlm2vec_registry.store import Registry

MODEL = "qwen"
LORA, DORA = (adapter_folder("qwen2_vl", name) for name in ("lora", "dora"))


@pytest.fixture(scope="module")
def base(checkpoints: Path) -> Path:
    return checkpoints / "qwen2_vl"


@pytest.fixture(scope="module")
def store(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with versions 1 (lora, champion) and 2 (dora); copied for tests that change it."""
    folder = tmp_path_factory.mktemp("store")
    registry = Registry(str(folder))
    registry.publish(MODEL, LORA, base=base, alias="champion", metrics={"hit1": 0.5})
    registry.publish(MODEL, DORA, base=base)
    return folder


@pytest.fixture
def own(store: Path, tmp_path: Path) -> Registry:
    """A registry of the test's own."""
    shutil.copytree(store, tmp_path / "store")
    return Registry(str(tmp_path / "store"))


def command(store: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(vlm2vec, ["adapters", "--registry", str(store), *map(str, arguments)])


def test_a_version_is_what_was_published(store: Path, base: Path, tmp_path: Path) -> None:
    registry = Registry(str(store))
    version = registry.version(MODEL, "champion")
    assert version == registry.version(MODEL, "1")
    assert version.base == base_digest(base).hex()
    assert version.embedding["backbone"] == "qwen2_vl"
    assert registry.metrics(version) == {"hit1": 0.5}
    registry.download(version, tmp_path, 1 << 20)
    artifact.verify(tmp_path, version.digests)
    assert space_of(base_digest(base), tmp_path) == version.space
    assert (tmp_path / artifact.WEIGHTS).read_bytes() == (LORA / artifact.WEIGHTS).read_bytes()
    with pytest.raises(ArtifactError, match="more than max_artifact_bytes, 1000"):
        registry.download(version, tmp_path, 1000)


def test_the_same_bytes_are_the_same_space(own: Registry, base: Path) -> None:
    again = own.publish(MODEL, LORA, base=base)
    assert again.name == "3"
    assert again.space == own.version(MODEL, "1").space != own.version(MODEL, "2").space


def test_mlflow_sees_a_model(own: Registry) -> None:
    from mlflow.models import Model

    version = own.version(MODEL, "1")
    description = Model.load(version.uri.removeprefix("file://"))
    assert description.flavors["vlm2vec"]["space"] == version.space


def test_what_may_hold_code_is_refused(own: Registry, base: Path, tmp_path: Path) -> None:
    for name in ("adapter_model.bin", "model.pt", "modeling.py", "optimizer.bin"):
        folder = tmp_path / name
        shutil.copytree(LORA, folder)
        (folder / name).write_bytes(b"")
        with pytest.raises(ArtifactError, match=rf"{name} may hold code"):
            own.publish(MODEL, folder, base=base)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"no adapter_config\.json"):
        own.publish(MODEL, tmp_path / "empty", base=base)
    assert len(own.versions(MODEL)) == 2


def test_a_snapshot_survives_a_file(store: Path) -> None:
    snapshot = Registry(str(store)).snapshot(MODEL)
    assert snapshot.aliases == {"champion": "1"}
    assert Snapshot.from_json(snapshot.to_json()) == snapshot


def test_versions_of_others_are_said_to_be_broken(own: Registry) -> None:
    run = own.version(MODEL, "1").run_id
    for tags in ({}, {"vlm2vec.space": "x", "vlm2vec.base": "x", "vlm2vec.digests": "[]"}):
        own.client.create_model_version(MODEL, "file:///nowhere", run_id=run, tags=tags)
    snapshot = own.snapshot(MODEL)
    assert set(snapshot.versions) == {"1", "2"}
    assert set(snapshot.broken) == {"3", "4"}
    assert "not made by publishing" in snapshot.broken["3"]


@pytest.mark.parametrize("share", ["none", "1.5", "-0.1", "nan", ""])
def test_a_share_that_is_none_sends_nobody(own: Registry, share: str) -> None:
    own.set_model_tag(MODEL, "vlm2vec.canary_share", share)
    assert own.snapshot(MODEL).canary_share == 0.0


def test_what_is_not_there(store: Path) -> None:
    registry = Registry(str(store))
    with pytest.raises(MissingError):
        registry.snapshot("nobody")
    with pytest.raises(MissingError, match="there are 1, 2, champion"):
        registry.version(MODEL, "canary")
    with pytest.raises(OutageError):
        Registry("http://127.0.0.1:9").snapshot(MODEL)


def test_promote_and_roll_back(own: Registry) -> None:
    with pytest.raises(MissingError, match="had no champion before 1"):
        traffic.rollback(own, MODEL)
    traffic.start_canary(own, MODEL, "2", 0.05)
    assert own.snapshot(MODEL).canary_share == 0.05
    assert traffic.promote(own, MODEL, "canary") == "2"
    assert own.snapshot(MODEL).aliases == {"champion": "2"}
    assert own.snapshot(MODEL).canary_share == 0.0
    assert traffic.promote(own, MODEL, "2") == "2"
    assert traffic.rollback(own, MODEL) == ("1", "2")
    assert traffic.rollback(own, MODEL) == ("2", "1")
    with pytest.raises(ValueError, match="not between 0 and 1"):
        traffic.start_canary(own, MODEL, "1", 5.0)


def test_a_base_is_a_version(own: Registry, base: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    publish = ("publish", "--model", MODEL)
    with pytest.raises(MissingError, match="publish --base makes the base one"):
        traffic.promote(own, MODEL, "base")
    done = command(store, *publish, "--base", base, "--alias", "canary")
    assert done.exit_code == 0, done.output
    published = own.version(MODEL, "canary")
    assert published.space == space_of(base_digest(base), None)
    assert (published.name, published.is_base) == ("3", True)
    assert published.tags["vlm2vec.adapter"] == "none"
    assert not own.version(MODEL, "1").is_base
    snapshot = own.snapshot(MODEL)
    assert Snapshot.from_json(snapshot.to_json()) == snapshot
    done = command(store, *publish, "--base", base, "--preset", "chat")
    assert done.exit_code == 0, done.output
    embedding = preset.read("chat").embedding
    assert own.version(MODEL, "4").space == space_of(base_digest(base), None, embedding)
    differs = command(store, "diff", MODEL, "3", "1")
    assert differs.exit_code == 1
    assert '+  "adapter": {' in differs.output
    assert command(store, "promote", MODEL, "--version", "canary").exit_code == 0
    assert command(store, "rollback", MODEL).exit_code == 0
    assert own.snapshot(MODEL).aliases == {"champion": "1"}
    for flags, problem in (
        ((), "give the FOLDER of an adapter, or --base DIR"),
        (("--preset", "vlm2vec-v2"), "is of an adapter, VLM2Vec/VLM2Vec-V2.0: give that as FOLDER"),
        (("--base", tmp_path), "config.json"),
    ):
        done = command(store, *publish, *flags)
        assert done.exit_code != 0
        assert problem in str(done.exception)


def test_publish_from_the_command_line(own: Registry, base: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    numbers = tmp_path / "metrics.json"
    numbers.write_text('{"hit1": 0.75}')
    done = command(
        store, "publish", DORA, "--model", MODEL, "--base", base, "--alias", "canary",
        "--metrics", numbers,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert done.output.startswith(f"{MODEL} version 3, space {own.version(MODEL, '2').space}")
    assert own.metrics(own.version(MODEL, "canary")) == {"hit1": 0.75}
    done = command(store, "publish", DORA, "--model", MODEL, "--base", base, "--preset", "chat")
    assert done.exit_code == 0, done.output
    published = own.version(MODEL, "4")
    said = EmbeddingConfig.from_dict(published.embedding)
    assert said.prompt == preset.read("chat").embedding.prompt
    assert published.space != own.version(MODEL, "2").space


def test_publish_checks_the_shapes(own: Registry, checkpoints: Path, tmp_path: Path) -> None:
    refused: list[tuple[Path, list[Any], str]] = [
        (LORA, [], "give --base DIR"),
        (LORA, ["--base", tmp_path], "config.json"),
        (adapter_folder("phi3_v", "dora"), ["--base", checkpoints / "qwen2_vl"], "do not fit"),
        (LORA, ["--base", checkpoints / "phi3_v"], "land on no linear layer"),
    ]
    for folder, flags, problem in refused:
        done = command(tmp_path / "store", "publish", folder, "--model", MODEL, *flags)
        assert done.exit_code != 0
        assert problem in str(done.exception)
    assert len(own.versions(MODEL)) == 2


def test_training_publishes_by_the_same_checks(
    own: Registry, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vlm2vec_training import trainer

    store, data = str(tmp_path / "store"), tmp_path / "train.yaml"
    data.write_text("{}")
    for folder, model, problem in (
        (adapter_folder("phi3_v", "dora"), MODEL, "do not fit"),
        (LORA, "a/b", "no name for a model"),
        (LORA, MODEL, ""),
    ):
        trained = trainer.TrainedAdapter(folder, None, [0.5], "", {"data.x": "1"})
        monkeypatch.setattr(trainer, "train", lambda arguments, trained=trained: trained)
        done = CliRunner().invoke(
            vlm2vec,
            ["train", "--base", str(checkpoints / "qwen2_vl"), "--data", str(data), "--output",
             str(tmp_path / "out"), "--publish", model, "--registry", store],
        )  # fmt: skip
        assert (done.exit_code == 0) == (not problem), done.output
        assert problem in str(done.exception)
        assert len(own.versions(MODEL)) == (2 if problem else 3)
    assert own.version(MODEL, "3").tags["data.x"] == "1"


def test_list_show_and_diff(own: Registry, tmp_path: Path) -> None:
    store = tmp_path / "store"
    assert command(store, "canary", MODEL, "--version", "2", "--share", "5%").exit_code == 0
    listed = command(store, "list").output.splitlines()
    assert [line.split()[:2] for line in listed[1:]] == [[MODEL, "2"], [MODEL, "1"]]
    assert "canary (5.0%)" in listed[1]
    shown = json.loads(command(store, "show", MODEL, "--version", "canary").output)
    assert shown["version"] == "2"
    assert shown["digests"] == own.version(MODEL, "2").digests
    differs = command(store, "diff", MODEL, "1", "2")
    assert differs.exit_code == 1
    assert '+    "use_dora": true,' in differs.output
    assert command(store, "diff", MODEL, "1", "champion").exit_code == 0


def test_a_corpus_that_is_not_ready_stops_a_promotion(own: Registry, tmp_path: Path) -> None:
    store, ready = tmp_path / "store", tmp_path / "ready.json"
    target = own.version(MODEL, "2").space
    values = {
        "format": "vlm2vec-space-ready/1", "space": target, "from_space": "x", "model": MODEL,
        "version": "2", "dimension": 4, "rows": 10, "failed": 0, "complete": True,
        "input_sha256": "x",
    }  # fmt: skip
    for change, problem in (
        ({"space": "elsewhere"}, "is in space elsewhere, not"),
        ({"failed": 1}, "1 of 10 rows have no vector"),
        ({"complete": False}, "did not end"),
    ):
        ready.write_text(json.dumps(values | change))
        flags = ("promote", MODEL, "--version", "2", "--require-space-ready", ready)
        done = command(store, *flags)
        assert done.exit_code == 3
        assert problem in done.output
        assert own.snapshot(MODEL).aliases == {"champion": "1"}
    ready.write_text(json.dumps(values))
    assert command(store, *flags).exit_code == 0
    assert own.snapshot(MODEL).aliases == {"champion": "2"}


@pytest.mark.parametrize("share", ["101%", "-1", "much", "nan"])
def test_shares_on_the_command_line(store: Path, share: str) -> None:
    done = command(store, "canary", MODEL, "--version", "2", "--share", share)
    assert done.exit_code == 2
    assert "0% to 100%" in done.output


def test_what_only_names_the_base_is_not_in_the_space(base: Path, tmp_path: Path) -> None:
    digest = base_digest(base)
    spaces = []
    for number, text in enumerate(
        ('{"backbone": "qwen2_vl", "base_model": "x"}', '{"prompt": {"suffix": "."}}')
    ):
        folder = tmp_path / str(number)
        shutil.copytree(LORA, folder)
        (folder / "embedding.json").write_text(text)
        spaces.append(space_of(digest, folder))
    assert spaces[0] == space_of(digest, LORA) != spaces[1]
