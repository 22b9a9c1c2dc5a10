"""Qwen2.5-Omni's layouts and names: its thinker with and without the rest, and adapters from any
version of ``transformers``."""

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.parity.backbone_cases import DATA
from tests.parity.make_backbones import write_all
from vlm2vec_registry.publishing import stage
from vlm2vec_service.backbones import backbone_name
from vlm2vec_service.engine import Engine, checkpoint
from vlm2vec_service.settings import EngineSettings

LORA = DATA / "adapters" / "qwen2_5_omni" / "lora"
START = "base_model.model."
TREES = {
    "since 5.23": {
        "model.": "model.language_model.",
        "visual.": "model.visual.",
        "audio_tower.": "model.audio_tower.",
    },
    "within, since 5.23": {
        "model.": "language_model.", "visual.": "visual.", "audio_tower.": "audio_tower.",
    },
    "whole": {
        name: f"thinker.{name}" for name in ("model.", "visual.", "audio_tower.")
    },
    "whole, since 5.23": {
        "model.": "thinker.model.language_model.",
        "visual.": "thinker.model.visual.",
        "audio_tower.": "thinker.model.audio_tower.",
    },
}  # fmt: skip
"""The starts of names in the tree of other versions, by those in the adapter's file."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omni")
    write_all(folder, "qwen2_5_omni", "qwen2_5_omni_thinker")
    return folder


@pytest.fixture(scope="module")
def engine(bases: Path) -> Engine:
    return Engine.load(bases / "qwen2_5_omni", EngineSettings(dtype="float32"))


def test_both_layouts_are_the_same_model_and_nothing_else_is_read(
    bases: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    opened = safe_open

    @contextmanager
    def noted(*given: Any, **named: Any) -> Iterator[Any]:
        with opened(*given, **named) as file:

            def get_tensor(name: str) -> torch.Tensor:
                read.append(name)
                tensor: torch.Tensor = file.get_tensor(name)
                return tensor

            yield SimpleNamespace(keys=file.keys, get_tensor=get_tensor)

    monkeypatch.setattr(checkpoint, "safe_open", noted)
    settings = EngineSettings(dtype="float32")
    whole, alone = (
        Engine.load(bases / name, settings) for name in ("qwen2_5_omni", "qwen2_5_omni_thinker")
    )
    assert backbone_name(bases / "qwen2_5_omni_thinker") == whole.backbone.name
    weights = dict(whole.backbone.named_parameters())
    found = dict(alone.backbone.named_parameters())
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    parts = {name.removeprefix("thinker.").partition(".")[0] for name in read}
    assert parts == {"model", "visual", "audio_tower"}
    assert not any("audio_bos_eos_token" in name for name in read)


def test_an_adapter_of_the_whole_model_is_published_for_its_thinker(
    bases: Path, tmp_path: Path
) -> None:
    shutil.copytree(LORA, tmp_path / "adapter")
    (tmp_path / "adapter" / "embedding.json").write_text('{"backbone": "qwen2_5_omni"}')
    staged = stage(tmp_path / "adapter", tmp_path / "staged", bases / "qwen2_5_omni_thinker")
    assert staged.parameters["backbone"] == "qwen2_5_omni"


@pytest.mark.parametrize("tree", TREES)
def test_an_adapter_loads_in_the_names_of_any_tree(
    engine: Engine, tree: str, tmp_path: Path
) -> None:
    def renamed(name: str) -> str:
        start = next(start for start in TREES[tree] if name.startswith(start))
        return TREES[tree][start] + name.removeprefix(start)

    tensors = load_file(LORA / "adapter_model.safetensors")
    named = {
        START + renamed(key.removeprefix(START)): tensor for key, tensor in tensors.items()
    }  # fmt: skip
    changed = "audio_tower.layers.1.self_attn.out_proj"
    settings = json.loads((LORA / "adapter_config.json").read_text())
    for folder, name, held in (
        (tmp_path / "first", changed, tensors),
        (tmp_path / "other", renamed(changed), named),
    ):
        folder.mkdir()
        save_file(held, folder / "adapter_model.safetensors")
        # The keys of patterns are in the names of the code that trained.
        (folder / "adapter_config.json").write_text(
            json.dumps(settings | {"alpha_pattern": {name: 24}})
        )
    first, other = (
        engine.load_adapter(name, tmp_path / name).exact for name in ("first", "other")
    )  # fmt: skip
    assert len(first) == 45
    assert first.keys() == other.keys()
    assert all(torch.equal(first[name].b, other[name].b) for name in first)
    plain = engine.load_adapter("plain", LORA).exact
    assert [name for name in first if not torch.equal(first[name].b, plain[name].b)] == [changed]


def test_features_are_an_adapters_own_where_it_is_on_a_tower(
    engine: Engine, tmp_path: Path
) -> None:
    digests = [engine.load_adapter("whole", LORA).media_digest]
    digests.append(engine.load_adapter("text", LORA.parent / "dora").media_digest)
    tensors = load_file(LORA / "adapter_model.safetensors")
    heard = {key: tensor for key, tensor in tensors.items() if "audio_tower" in key}
    shutil.copy(LORA / "adapter_config.json", tmp_path)
    settings = json.loads((LORA / "adapter_config.json").read_text())
    settings["target_modules"] = r"audio_tower\..*_proj"
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(heard, tmp_path / "adapter_model.safetensors")
    digests.append(engine.load_adapter("audio", tmp_path).media_digest)
    assert [bool(digest) for digest in digests] == [True, False, True]
    assert digests[0] != digests[2]
