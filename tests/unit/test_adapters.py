"""Adapters that PEFT itself made, and folders that must be refused."""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import CASES, adapter_folder, case_request
from tests.unit.peft_adapters import make_adapter, plain_backbone
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.errors import AdapterError, NotFoundError
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.settings import EngineSettings

FLOAT32 = EngineSettings(dtype="float32", token_budget=100_000)
PROJECTIONS = ["q_proj", "v_proj", "down_proj"]
TARGETS: dict[str, dict[str, Any]] = {
    "lora": {"target_modules": PROJECTIONS},
    "rslora": {"target_modules": PROJECTIONS, "use_rslora": True, "r": 16},
    "dora": {"target_modules": PROJECTIONS, "use_dora": True},
    "dora rslora": {"target_modules": PROJECTIONS, "use_dora": True, "use_rslora": True},
    "patterns": {
        "target_modules": PROJECTIONS,
        "rank_pattern": {"layers.0.self_attn.q_proj": 2, r"layers\.[12]\.mlp\.down_proj": 12},
        "alpha_pattern": {"v_proj": 3, "layers.0.self_attn.q_proj": 7},
    },
    "regex": {"target_modules": r"model\.layers\.[02]\..*(q|k)_proj", "use_dora": True},
    "layers": {"target_modules": PROJECTIONS, "layers_to_transform": [0, 2]},
    "one layer": {"target_modules": PROJECTIONS, "layers_to_transform": 1},
    "layers of the decoder": {
        "target_modules": ["q_proj", "qkv"],
        "layers_to_transform": [1],
        "layers_pattern": ["layers"],
    },
    "exclude": {"target_modules": ["q_proj", "o_proj"], "exclude_modules": r".*\.1\..*o_proj"},
    "vision": {"target_modules": r".*\.(qkv|attn\.proj|fc1|fc2|q_proj)", "use_dora": True},
    "merger": {"target_modules": r"visual\.merger\.mlp\.[02]", "use_dora": True},
    "full name": {"target_modules": ["model.layers.1.mlp.up_proj"]},
}


@pytest.fixture(scope="module")
def inputs(checkpoints: Path) -> list[Prepared]:
    preprocessor = load_preprocessor(checkpoints / "qwen2_vl")
    chosen = [case for case in CASES["qwen2_vl"] if case["id"] in ("text", "image-portrait")]
    return [preprocessor.prepare(case_request(case), EmbeddingConfig()) for case in chosen]


@pytest.mark.parametrize("options", TARGETS.values(), ids=TARGETS.keys())
def test_equal_to_peft(
    checkpoints: Path, inputs: list[Prepared], tmp_path: Path, options: dict[str, Any]
) -> None:
    base = checkpoints / "qwen2_vl"
    merged = make_adapter(base, tmp_path, **options)
    expected = Engine(merged, FLOAT32).embed([(item, None) for item in inputs])
    engine = Engine.load(base, FLOAT32)
    engine.load_adapter("made", tmp_path)
    ours = engine.embed([(item, "made") for item in inputs])
    plain = engine.embed([(item, None) for item in inputs])
    np.testing.assert_allclose(ours, expected, atol=2e-5)
    # The adapter does something to every input it reaches.
    assert min(abs(ours - plain).max(axis=1)[1:]) > 1e-3


def test_all_linear(checkpoints: Path, inputs: list[Prepared], tmp_path: Path) -> None:
    base = checkpoints / "qwen2_vl"
    # PEFT takes "all-linear" only on its own model classes and then writes the names; other
    # tools leave it in the file.
    linears = [
        name
        for name, module in plain_backbone(base).named_modules()
        if isinstance(module, torch.nn.Linear)
    ]
    merged = make_adapter(base, tmp_path, target_modules=linears, use_dora=True)
    edit_config(tmp_path, target_modules="all-linear")
    engine = Engine.load(base, FLOAT32)
    adapter = engine.load_adapter("made", tmp_path)
    assert set(adapter.layers) == set(linears)
    np.testing.assert_allclose(
        engine.embed([(item, "made") for item in inputs]),
        Engine(merged, FLOAT32).embed([(item, None) for item in inputs]),
        atol=2e-5,
    )


def test_phi_projector_and_clip(checkpoints: Path, tmp_path: Path) -> None:
    base = checkpoints / "phi3_v"
    case = next(case for case in CASES["phi3_v"] if case["id"] == "image-portrait")
    prepared = load_preprocessor(base).prepare(case_request(case), EmbeddingConfig())
    merged = make_adapter(
        base,
        tmp_path,
        target_modules=r".*img_projection\.[02]|.*encoder.*(fc1|k_proj)",
        use_dora=True,
    )
    engine = Engine.load(base, FLOAT32)
    assert engine.load_adapter("made", tmp_path).media_digest
    np.testing.assert_allclose(
        engine.embed([(prepared, "made")]),
        Engine(merged, FLOAT32).embed([(prepared, None)]),
        atol=2e-5,
    )


def test_ranks_mix_in_one_batch(checkpoints: Path, inputs: list[Prepared], tmp_path: Path) -> None:
    base = checkpoints / "qwen2_vl"
    engine = Engine.load(base, FLOAT32)
    for seed, rank in enumerate((1, 4, 32)):
        folder = tmp_path / str(rank)
        make_adapter(
            base, folder, seed, r=rank, target_modules=["q_proj", "qkv"], use_dora=rank > 1
        )
        engine.load_adapter(str(rank), folder)
    pairs = [(item, name) for name in ("1", None, "32", "4") for item in inputs]
    alone = np.concatenate([engine.embed([pair]) for pair in pairs])
    assert min((alone * engine.embed(pairs)).sum(axis=1)) > 0.99999


@pytest.mark.parametrize("architecture", ["qwen2_vl"])
def test_names_of_the_newer_generation(
    checkpoints: Path, inputs: list[Prepared], tmp_path: Path, architecture: str
) -> None:
    source = adapter_folder(architecture, "dora")
    shutil.copytree(source, tmp_path, dirs_exist_ok=True)
    rewrite_tensors(
        tmp_path,
        lambda tensors: {
            key.replace("model.model.model.", "model.model.model.language_model.")
            + (".weight" if key.endswith("magnitude_vector") else ""): value
            for key, value in tensors.items()
        },
    )
    edit_config(tmp_path, target_modules=r"model\.language_model\.layers\.\d\..*_proj")
    engine = Engine.load(checkpoints / architecture, FLOAT32)
    engine.load_adapter("old", source)
    engine.load_adapter("new", tmp_path)
    np.testing.assert_array_equal(
        engine.embed([(item, "old") for item in inputs]),
        engine.embed([(item, "new") for item in inputs]),
    )


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def rewrite_tensors(folder: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(change(load_file(path)), path)


A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"
REFUSED_SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "modules_to_save": ({"modules_to_save": ["embed_tokens"]}, "modules_to_save"),
    "bias": ({"bias": "all"}, "bias='all'"),
    "lora_bias": ({"lora_bias": True}, "lora_bias"),
    "pissa": ({"init_lora_weights": "pissa"}, "changes the base weights"),
    "token indices": ({"trainable_token_indices": [1]}, "trainable_token_indices"),
    "replication": ({"layer_replication": [[0, 1]]}, "layer_replication"),
    "parameters": ({"target_parameters": ["x"]}, "target_parameters"),
    "unknown": ({"from_the_future": 3}, "from_the_future=3"),
    "other method": ({"peft_type": "IA3"}, "peft_type is not LORA"),
    "no layer": ({"target_modules": ["nothing"]}, "targets no linear layer"),
    "other rank": ({"r": 4}, r"lora_A is \(8, 128\), not \(4, 128\)"),
    "narrower targets": ({"target_modules": ["q_proj"]}, "does not target.*mlp.down_proj"),
    "dora without magnitudes": ({"use_dora": False}, "not \\['lora_A', 'lora_B'\\]"),
}


@pytest.mark.parametrize(
    ("values", "message"), REFUSED_SETTINGS.values(), ids=REFUSED_SETTINGS.keys()
)
def test_refused_settings(
    checkpoints: Path, tmp_path: Path, values: dict[str, Any], message: str
) -> None:
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    edit_config(tmp_path, **values)
    refuse(checkpoints, tmp_path, message)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"poling": "last"}', "embedding.json: unknown key poling"),
        ('{"backbone": "phi3_v"}', "made for phi3_v, the base is qwen2_vl"),
        ('{"image": {"num_crops": 4}}', "image.num_crops is no setting of qwen2_vl"),
    ],
)
def test_refused_embedding_json(checkpoints: Path, tmp_path: Path, text: str, message: str) -> None:
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "embedding.json").write_text(text)
    refuse(checkpoints, tmp_path, message)


def test_embedding_json_decides_whether_to_normalize(
    checkpoints: Path, inputs: list[Prepared], tmp_path: Path
) -> None:
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    (tmp_path / "embedding.json").write_text('{"normalize": false}')
    engine = Engine.load(checkpoints / "qwen2_vl", FLOAT32)
    engine.load_adapter("raw", tmp_path)
    engine.load_adapter("unit", adapter_folder("qwen2_vl", "dora"))
    raw, unit = engine.embed([(inputs[0], "raw"), (inputs[0], "unit")])
    assert np.linalg.norm(raw) > 1.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)


def refuse(checkpoints: Path, folder: Path, message: str) -> None:
    engine = Engine.load(checkpoints / "qwen2_vl", FLOAT32)
    with pytest.raises(AdapterError, match=re.compile(message, re.DOTALL)):
        engine.load_adapter("refused", folder)
    assert not engine.adapters


REFUSED_TENSORS: dict[str, tuple[Callable[[dict[str, Any]], dict[str, Any]], str]] = {
    "missing": (
        lambda tensors: {k: v for k, v in tensors.items() if "layers.2.mlp.up_proj" not in k},
        "the file lacks: model.layers.2.mlp.up_proj",
    ),
    "half missing": (
        lambda tensors: {k: v for k, v in tensors.items() if k != A},
        r"q_proj has \['lora_B', 'lora_magnitude_vector'\]",
    ),
    "stray": (
        lambda tensors: {**tensors, "base_model.model.model.norm.weight": torch.ones(128)},
        "land on no linear layer: base_model.model.model.norm.weight",
    ),
    "embedding": (
        lambda tensors: {
            **tensors,
            "base_model.model.model.embed_tokens.lora_embedding_A": torch.ones(8, 2048),
        },
        "land on no linear layer: .*lora_embedding_A",
    ),
    "no such layer": (
        lambda tensors: {**tensors, A.replace("layers.0", "layers.7"): tensors[A].clone()},
        r"land on no linear layer: model\.layers\.7",
    ),
    "not a number": (
        lambda tensors: {k: v / 0 if k == A else v for k, v in tensors.items()},
        r"layers\.0\.self_attn\.q_proj\.lora_A holds what is not a finite number",
    ),
    "other base": (
        lambda tensors: {k: v.repeat(1, 2) if k == A else v for k, v in tensors.items()},
        r"q_proj.lora_A is \(8, 256\), not \(8, 128\)",
    ),
}


@pytest.mark.parametrize(
    ("change", "message"), REFUSED_TENSORS.values(), ids=REFUSED_TENSORS.keys()
)
def test_refused_tensors(
    checkpoints: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], dict[str, Any]],
    message: str,
) -> None:
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    rewrite_tensors(tmp_path, change)
    refuse(checkpoints, tmp_path, message)


def test_refused_files(checkpoints: Path, tmp_path: Path) -> None:
    refuse(checkpoints, tmp_path / "nowhere", "no such folder")
    refuse(checkpoints, tmp_path, "adapter_config.json")
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    weights = tmp_path / "adapter_model.safetensors"
    data = weights.read_bytes()
    for damaged in (data[:-100], data[: len(data) // 2], b"\xff" * 64, b""):
        weights.write_bytes(damaged)
        refuse(checkpoints, tmp_path, "adapter_model.safetensors")
    weights.rename(tmp_path / "adapter_model.bin")
    refuse(checkpoints, tmp_path, "adapter_model.bin is not loaded, only safetensors are")


def test_unload(checkpoints: Path, inputs: list[Prepared]) -> None:
    engine = Engine.load(checkpoints / "qwen2_vl", FLOAT32)
    engine.load_adapter("dora", adapter_folder("qwen2_vl", "dora"))
    engine.unload_adapter("dora")
    with pytest.raises(NotFoundError, match="'dora' is not loaded; loaded: none"):
        engine.embed([(inputs[0], "dora")])
    with pytest.raises(NotFoundError):
        engine.unload_adapter("dora")
