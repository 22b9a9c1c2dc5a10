"""Presets on the command line, and folders that get an ``embedding.json``."""

import json
import tempfile
from pathlib import Path

import click
import numpy as np
import pytest
from click.testing import CliRunner

from vlm2vec_cli.main import vlm2vec
from vlm2vec_cli.presets import add_models, named_presets, settle_adapter, settle_base
from vlm2vec_cli.verify import Vector, compare
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.hub import HubId
from vlm2vec_service.errors import StartError
from vlm2vec_service.folders import Source, with_embedding

V2, GME, CHAT = map(preset.read, ("vlm2vec-v2", "gme-qwen2-vl", "chat"))
PARAMETER = click.Option(["--preset"])


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another folder for temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with two files."""
    made = tmp_path / "a model"
    made.mkdir()
    for name in ("config.json", "model.safetensors"):
        (made / name).write_text(name)
    return made


def test_presets_are_listed_and_shown() -> None:
    listed = CliRunner().invoke(vlm2vec, ["presets"])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.output.splitlines()] == preset.names()
    shown = json.loads(CliRunner().invoke(vlm2vec, ["presets", "gme-qwen2-vl"]).output)
    assert EmbeddingConfig.from_dict(shown["embedding"]) == GME.embedding
    assert shown["base"] == GME.base


@pytest.mark.parametrize("command", ["embed", "serve", "train"])
def test_unknown_preset_is_refused_by_its_option(command: str) -> None:
    result = CliRunner().invoke(vlm2vec, [command, "--preset", "gme"])
    assert result.exit_code == 2
    assert "Invalid value for '--preset': no preset 'gme'; there are chat, " in result.output


def test_base_has_to_be_given_where_no_preset_names_one() -> None:
    arguments = ["embed", "--preset", "chat", "--input", "-", "--output", "a.npz"]
    result = CliRunner().invoke(vlm2vec, arguments)
    assert "Missing option '--base'" in result.output


@pytest.mark.parametrize("items", [["gme"], ["a=gme"], ["chat", "chat"], ["a=chat", "a=ops-mm"]])
def test_presets_by_model_are_checked(items: list[str]) -> None:
    with pytest.raises(click.BadParameter, match=r"no preset 'gme'|is given twice"):
        named_presets(click.Context(vlm2vec), PARAMETER, items)


def test_what_is_not_given_is_named_by_the_preset(folder: Path) -> None:
    presets = {"v2": V2, "gme": GME, "mine": CHAT}
    models: dict[str, Source] = {"mine": folder, "gme": folder}
    adapters: dict[tuple[str, str], Source] = {("mine", "7"): folder}
    add_models(presets, models, adapters, registry="")
    assert models == {"mine": folder, "gme": folder, "v2": HubId("Qwen/Qwen2-VL-2B-Instruct")}
    assert adapters == {("mine", "7"): folder, ("v2", "1"): HubId("VLM2Vec/VLM2Vec-V2.0")}
    with pytest.raises(StartError, match="--preset: chat is for any model: give --model b=DIR"):
        add_models({"b": CHAT}, models, adapters, registry="")


def test_adapters_of_a_registry_are_not_added() -> None:
    adapters: dict[tuple[str, str], Source] = {}
    add_models({"v2": V2}, {}, adapters, registry="http://mlflow")
    assert not adapters


def test_preset_is_for_the_base_or_for_its_adapters(folder: Path) -> None:
    assert settle_base(folder, V2) == folder
    assert settle_adapter(folder, GME) == folder
    assert EmbeddingConfig.read(settle_base(folder, GME)) == GME.embedding
    assert EmbeddingConfig.read(settle_adapter(folder, V2)) == V2.embedding
    assert EmbeddingConfig.read(settle_base(folder, V2, CHAT.embedding)) == CHAT.embedding
    with pytest.raises(StartError, match="--embedding: give either that, or a --preset"):
        settle_base(folder, GME, CHAT.embedding)


def test_folder_with_an_embedding_has_the_files_and_the_embedding(folder: Path) -> None:
    made = with_embedding(folder, GME.embedding)
    assert sorted(path.name for path in made.iterdir()) == [
        "config.json", "embedding.json", "model.safetensors",
    ]  # fmt: skip
    assert (made / "model.safetensors").read_text() == "model.safetensors"
    assert not (folder / "embedding.json").exists()
    # Every process of a server finds the same one; other settings are another.
    assert with_embedding(folder, GME.embedding) == made
    assert with_embedding(folder, CHAT.embedding) != made
    (folder / "tokenizer.json").write_text("new")
    assert (with_embedding(folder, GME.embedding) / "tokenizer.json").read_text() == "new"


def test_folder_that_says_otherwise_is_refused(folder: Path) -> None:
    own = folder / "embedding.json"
    own.write_text(CHAT.embedding.to_json())
    assert with_embedding(folder, CHAT.embedding) == folder
    with pytest.raises(StartError, match=r"embedding\.json says otherwise than the settings given"):
        with_embedding(folder, GME.embedding)
    own.write_text('{"backbone": "qwen2_vl"}')  # which says nothing of the form
    assert EmbeddingConfig.read(with_embedding(folder, GME.embedding)) == GME.embedding
    own.write_text('{"pooling": "best"}')
    with pytest.raises(StartError, match="pooling: 'best' is not one of"):
        with_embedding(folder, GME.embedding)


def test_links_are_not_put_where_somebody_else_could_change_them(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    with pytest.raises(StartError, match="is somebody else's; set TMPDIR"):
        with_embedding(folder, GME.embedding)


@pytest.mark.parametrize(
    ("off", "tolerance", "good"), [(0.0, 0.01, True), (0.009, 0.01, True), (0.02, 0.01, False)]
)
def test_similarities_are_compared_with_the_published_ones(
    off: float, tolerance: float, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    query = np.array([2, 0], np.float32)  # of any length
    vectors: dict[preset.Words, Vector] = {}
    for pair in V2.example:
        angle = np.arccos(pair.cosine + off)
        vectors |= {
            pair.left: query,
            pair.right: np.array([np.cos(angle), np.sin(angle)], np.float32),
        }
    assert compare(V2, vectors, tolerance) == good
    printed = capsys.readouterr().out
    assert ("  differs" in printed) == (not good)
    assert "[picture] Represent the given image with the following question:" in printed


def test_preset_without_an_example_cannot_be_verified(folder: Path) -> None:
    result = CliRunner().invoke(vlm2vec, ["verify", "chat", "--image", str(folder / "config.json")])
    assert str(result.exception) == (
        "no example of chat was published that we know; there are vlm2vec-full, vlm2vec-v2"
    )
