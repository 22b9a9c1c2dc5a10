"""Tensors that are not what PEFT writes, and which generation of names an adapter is meant in."""

import json
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2VLForConditionalGeneration

from tests.conftest import adapter_folder
from tests.unit.test_adapters import edit_config, rewrite_tensors
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.adapter import check_adapter
from vlm2vec_service.errors import AdapterError
from vlm2vec_service.settings import EngineSettings

Tensors = dict[str, Tensor]
Q = "base_model.model.model.layers.0.self_attn.q_proj"
A = f"{Q}.lora_A.weight"


@pytest.fixture(scope="module")
def engine(checkpoints: Path) -> Engine:
    return Engine.load(checkpoints / "qwen2_vl", EngineSettings(dtype="float32"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copytree(adapter_folder("qwen2_vl", "dora"), tmp_path, dirs_exist_ok=True)
    return tmp_path


def today(key: str) -> str:
    return key.replace("model.model.layers", "model.model.language_model.layers")


REFUSED: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "integers": (lambda t: {**t, A: t[A].to(torch.int32)}, "lora_A is I32, not one of F16, BF16"),
    "truth values": (lambda t: {**t, A: t[A] > 0}, "lora_A is BOOL, not one of"),
    "eight bits": (lambda t: {**t, A: t[A].to(torch.float8_e4m3fn)}, "lora_A is F8_E4M3, not one"),
    "complex": (lambda t: {**t, A: t[A].to(torch.complex64)}, "lora_A is C64, not one of"),
    "empty": (lambda t: {**t, A: t[A][:0]}, r"lora_A is \(0, 128\), not \(8, 128\)"),
    "scalar": (lambda t: {**t, A: t[A].sum()}, r"lora_A is \(\), not \(8, 128\)"),
    "more axes": (lambda t: {**t, A: t[A][None]}, r"lora_A is \(1, 8, 128\), not \(8, 128\)"),
    "many axes": (lambda t: {**t, A: torch.zeros([1] * 900)}, r"lora_A is \(1, 1, .*\.\.\., not"),
    "two names for a tensor": (
        lambda t: {**t, today(A): t[A].clone()},
        r"there under two names: model\.layers\.0\.self_attn\.q_proj\.lora_A",
    ),
    "two names for a module": (
        lambda t: {today(k) if k == A else k: v for k, v in t.items()},
        r"there under two names: model\.layers\.0\.self_attn\.q_proj\.lora_",
    ),
    "two names for a magnitude": (
        lambda t: {
            **t,
            f"{Q}.lora_magnitude_vector.weight": t[f"{Q}.lora_magnitude_vector"].clone(),
        },
        r"there under two names: model\.layers\.0\.self_attn\.q_proj\.lora_magnitude_vector",
    ),
    "a name of a megabyte": (
        lambda t: {**t, A.replace("q_proj", "q" * 2**20): t[A].clone()},
        r"no linear layer: model\.layers\.0\.self_attn\.q{100,180}\.\.\.",
    ),
    "a name to move a terminal": (
        lambda t: {**t, "\x1b[2J\nAdapter loaded": t[A].clone()},
        r"no linear layer: \\x1b\[2J\\nAdapter loaded",
    ),
    "another base layer": (
        lambda t: {**t, f"{Q}.base_layer.weight": torch.zeros(128, 128)},
        r"no linear layer: model\.layers\.0\.self_attn\.q_proj\.base_layer",
    ),
    "infinite": (lambda t: {**t, A: t[A] / 0}, "lora_A holds what is not a finite number"),
    "infinite in 32 bits": (
        lambda t: {**t, A: t[A].double() * 1e300},
        "lora_A holds what is not a finite number",
    ),
}


@pytest.mark.parametrize(("change", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_refused_tensors(
    engine: Engine, folder: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    rewrite_tensors(folder, change)
    refused(engine, folder, message)


def test_weights_that_only_the_scaling_makes_infinite(engine: Engine, folder: Path) -> None:
    edit_config(folder, lora_alpha=1e9)
    rewrite_tensors(folder, lambda t: {k: v * 1e33 if "lora_B" in k else v for k, v in t.items()})
    refused(engine, folder, "lora_B holds what is not a finite number")


def refused(engine: Engine, folder: Path, message: str) -> None:
    """Asserts that both the check and loading refuse ``folder``, in words fit for a log."""
    for call in (
        lambda: check_adapter(folder, engine.backbone, engine.linears),
        lambda: engine.load_adapter("refused", folder),
    ):
        with pytest.raises(AdapterError, match=message) as caught:
            call()
        text = str(caught.value)
        assert text.isascii()
        assert text.isprintable()
        assert len(text) < 1000


@pytest.mark.parametrize(
    "header",
    [
        b"[]", b"5", b"{", b"\xff" * 64, b'{"a": 5}', b'{"a": {"dtype": "F32"}}',
        b'{"a": {"dtype": "\\u001b[2J' + b"x" * 5000 + b'", "shape": [1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [99999999999], "data_offsets": [0, 4]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4000]}}',
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 0]}}',
        b'{"a":' * 5000,
    ],
)  # fmt: skip
def test_damaged_headers(engine: Engine, folder: Path, header: bytes) -> None:
    data = struct.pack("<Q", len(header)) + header + b"\0" * 4
    (folder / "adapter_model.safetensors").write_bytes(data)
    refused(engine, folder, r"adapter_model\.safetensors: ")


def scaling(engine: Engine, folder: Path, layer: str) -> float:
    """Alpha over rank of the layer, from what the engine holds: no DoRA, and B is of ones."""
    loaded = engine.load_adapter("made", folder).layers[layer]
    return float(loaded.b.mean())


OLD, NEW = "model.layers.0.self_attn.q_proj", "model.language_model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("written", "alphas", "expected"),
    [
        # As PEFT makes them: file and patterns in names of one generation.
        (OLD, {OLD: 2}, 2),
        (NEW, {NEW: 2}, 2),
        (NEW, {r"model\.language_model\..*": 2}, 2),
        (NEW, {"^model.language_model.*": 2, "q_proj": 4}, 2),
        (OLD, {"q_proj": 4, OLD: 2}, 4),
        (NEW, {"^(?!.*language_model).*": 2}, 8),
        (OLD, {"^(?!.*language_model).*": 2}, 2),
        # Made on today's names, and the tensors renamed by a tool.
        (OLD, {NEW: 2}, 2),
        (OLD, {"nothing": 4, r".*language_model\..*q_proj": 2}, 2),
        (OLD, {NEW: 2, "q_proj": 4}, 2),
        # PEFT saw today's names, and made nothing of a pattern in others.
        (NEW, {OLD: 2}, 8),
        (NEW, {OLD: 2, NEW: 4}, 4),
    ],
)
def test_alpha_pattern_is_meant_in_the_names_that_peft_saw(
    engine: Engine, tmp_path: Path, written: str, alphas: dict[str, float], expected: float
) -> None:
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 8, "alpha_pattern": alphas}
    targets = ["layers.0.self_attn.q_proj"]
    text = json.dumps({**config, "target_modules": targets})
    (tmp_path / "adapter_config.json").write_text(text)
    save_file(
        {
            f"base_model.model.{written}.lora_A.weight": torch.ones(1, 128),
            f"base_model.model.{written}.lora_B.weight": torch.ones(128, 1),
        },
        tmp_path / "adapter_model.safetensors",
    )
    assert scaling(engine, tmp_path, OLD) == expected


def test_alpha_patterns_that_match_nothing_are_logged(
    engine: Engine, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    edit_config(folder, alpha_pattern={"q_proj": 1, "nothing": 2})
    engine.load_adapter("made", folder)
    assert "1 keys of alpha_pattern match no layer" in caplog.text


@pytest.fixture(scope="module")
def with_lm_head(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter by PEFT on today's model that targets the output layer as well."""
    folder = tmp_path_factory.mktemp("lm_head")
    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(checkpoints / "qwen2_vl")
    wrapped: Any = get_peft_model(model, LoraConfig(target_modules=["q_proj", "lm_head"]))
    wrapped.save_pretrained(str(folder))
    return folder


def test_the_output_layer_may_be_a_target(engine: Engine, with_lm_head: Path) -> None:
    assert "base_model.model.lm_head.base_layer.weight" in load_file(
        with_lm_head / "adapter_model.safetensors"
    )
    check_adapter(with_lm_head, engine.backbone, engine.linears)
    adapter = engine.load_adapter("made", with_lm_head)
    assert set(adapter.layers) == {f"model.layers.{i}.self_attn.q_proj" for i in range(3)}


def test_the_output_layer_may_not_bring_other_embeddings(
    engine: Engine, with_lm_head: Path, tmp_path: Path
) -> None:
    shutil.copytree(with_lm_head, tmp_path, dirs_exist_ok=True)
    rewrite_tensors(
        tmp_path, lambda t: {k: v + 1 if "base_layer" in k else v for k, v in t.items()}
    )
    refused(engine, tmp_path, r"lm_head\.base_layer is not the base's token embeddings")


def test_a_copy_of_the_embeddings_may_be_coarser(
    engine: Engine, with_lm_head: Path, tmp_path: Path
) -> None:
    shutil.copytree(with_lm_head, tmp_path, dirs_exist_ok=True)
    rewrite_tensors(tmp_path, lambda t: {k: v.to(torch.bfloat16) for k, v in t.items()})
    assert engine.load_adapter("made", tmp_path).layers
