"""Checkpoint folders as the hub has them, and broken ones."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.errors import CheckpointError
from vlm2vec_service.preprocess import Request
from vlm2vec_service.settings import EngineSettings

FLOAT32 = EngineSettings(dtype="float32")


@pytest.fixture
def base(checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of the Qwen2-VL checkpoint that a test may break."""
    return Path(shutil.copytree(checkpoints / "qwen2_vl", tmp_path / "base"))


def vector(base: Path) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    prepared = load_preprocessor(base).prepare(Request(text="A cat."), EmbeddingConfig())
    return Engine.load(base, FLOAT32).embed([(prepared, None)])


def refuse(base: Path, message: str, dtype: str = "float32") -> None:
    with pytest.raises(CheckpointError, match=re.compile(message, re.DOTALL)):
        Engine.load(base, EngineSettings(dtype=dtype))


def test_shards_output_layer_and_newer_names(base: Path) -> None:
    expected = vector(base)
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = torch.zeros(2048, 128)
    (base / "model.safetensors").unlink()
    names = sorted(tensors)
    index = {}
    for shard, part in enumerate((names[:30], names[30:])):
        file = f"model-{shard}.safetensors"
        renamed = {
            re.sub(
                r"^(?:model|(visual))", lambda m: f"model.{m[1] or 'language_model'}", name
            ): name
            for name in part
        }
        save_file({new: tensors[old] for new, old in renamed.items()}, base / file)
        index.update(dict.fromkeys(renamed, file))
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    np.testing.assert_allclose(vector(base), expected, atol=1e-6)


def test_dtype_and_device_are_those_asked_for(base: Path) -> None:
    engine = Engine.load(base, EngineSettings(dtype="bfloat16"))
    assert {p.dtype for p in engine.backbone.parameters()} == {torch.bfloat16}
    assert {p.device.type for p in engine.backbone.parameters()} == {"cpu"}
    assert not [name for name, buffer in engine.backbone.named_buffers() if buffer.is_meta]


def test_wrong_tensors_are_named(base: Path) -> None:
    path = base / "model.safetensors"
    tensors = load_file(path)
    del tensors["model.norm.weight"]
    tensors["model.surprise"] = torch.ones(1)
    tensors["visual.merger.ln_q.bias"] = torch.ones(7)
    save_file(tensors, path)
    refuse(
        base,
        r"missing: model\.norm\.weight; unexpected: model\.surprise; "
        r"of another shape: visual\.merger\.ln_q\.bias is \(7,\), not \(64,\)",
    )


@pytest.mark.parametrize("size", [0, 7, 5000, -4])
def test_truncated_weights(base: Path, size: int) -> None:
    path = base / "model.safetensors"
    path.write_bytes(path.read_bytes()[:size])
    refuse(base, "model.safetensors")


def test_files_that_are_not_loaded(base: Path) -> None:
    (base / "model.safetensors").rename(base / "pytorch_model.bin")
    refuse(base, r"neither .* nor .*; pickled weights \(\*\.bin\) are not loaded")
    index = base / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "../elsewhere.safetensors"}}')
    refuse(base, "a shard lies outside the folder")
    index.write_text("[]")
    refuse(base, "no shard index")


def test_unknown_architecture_and_dtype(base: Path) -> None:
    refuse(base, "dtype 'int3' is not one of float32, bfloat16", dtype="int3")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "llava"}))
    refuse(base, "config.json: model_type 'llava' is not one of phi3_v, qwen2_5_omni, ")
    with pytest.raises(CheckpointError, match="model_type 'llava'"):
        load_preprocessor(base)
    (base / "config.json").write_text("{")
    refuse(base, "config.json")


def test_another_activation_is_not_taken_for_silu(base: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"hidden_act": "gelu"}))
    refuse(base, "hidden_act 'gelu' is not silu")


def test_phi_last_clip_layer_is_not_kept(checkpoints: Path) -> None:
    engine = Engine.load(checkpoints / "phi3_v", FLOAT32)
    names = [name for name, _ in engine.backbone.named_parameters()]
    assert not [name for name in names if "encoder.layers.2." in name or "post_layernorm" in name]
    assert len([name for name in engine.backbone.inert if "encoder.layers.2." in name]) == 6
