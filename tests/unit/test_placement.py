"""Where an adapter goes and how it scales, against PEFT itself on models of both layouts.

Adapters are made by PEFT with settings drawn at random, on ``transformers``' own Qwen2-VL (today's
names), on our backbones (the original checkpoint's names), and on the former with the tensors
renamed to the latter, as tools do. What the engine adds to each layer has to be what PEFT merges.
"""

import contextlib
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Qwen2VLForConditionalGeneration

from tests.unit.peft_adapters import plain_backbone, randomise
from vlm2vec_service.engine import Engine
from vlm2vec_service.settings import EngineSettings

ROUNDS = {"qwen2_vl": 16, "phi3_v": 6}
"""Adapters of each layout."""
LAYERS = {"today": "model.language_model.layers", "original": "model.layers"}
ENDS = {
    "qwen2_vl": ["q_proj", "v_proj", "o_proj", "mlp.up_proj", "qkv", "attn.proj", "fc1", "lm_head"],
    "phi3_v": ["qkv_proj", "o_proj", "down_proj", "k_proj", "fc2", "img_projection.2"],
}


@pytest.fixture(scope="module")
def engines(checkpoints: Path) -> dict[str, Engine]:
    settings = EngineSettings(dtype="float32")
    return {name: Engine.load(checkpoints / name, settings) for name in ENDS}


@pytest.fixture(scope="module")
def models(checkpoints: Path) -> dict[tuple[str, str], Any]:
    qwen = checkpoints / "qwen2_vl"
    today = Qwen2VLForConditionalGeneration.from_pretrained(qwen, dtype=torch.float32)
    return {
        ("qwen2_vl", "today"): today,
        ("qwen2_vl", "renamed"): today,
        ("qwen2_vl", "original"): plain_backbone(qwen),
        ("phi3_v", "original"): plain_backbone(checkpoints / "phi3_v"),
    }


def draw(random_: random.Random, family: str, layers: str) -> dict[str, Any]:
    """Settings for PEFT, some of which it refuses. ``layers`` is the name of the decoder's
    stack."""
    ends = ENDS[family]
    some = random_.sample(ends, 3)
    regexes = [
        rf"^(?!.*(visual|vision)).*\.({'|'.join(ends)})$",
        rf"(?!{layers}\.1\.).*\.({'|'.join(some)})",
        rf"{layers}\.[02]\..*(q|k|v|qkv)_proj",
        rf".*(?<!{layers}\.0\.self_attn)\.({'|'.join(some)})",
        r".*(visual|vision).*\.(qkv|fc1|fc2|k_proj)|" + rf"{layers}.*o_proj",
    ]
    keys = [
        rf"{layers}.0.self_attn.o_proj",
        rf"^{layers}\.1\..*",
        r"layers\.[12]\.self_attn\..*",
        rf"(?!{layers}\.2).*(qkv|o)_proj",
        "q_proj", "k_proj", "o_proj", "fc1", "mlp.up_proj", "nothing",
        r".*(visual|vision).*",
        "model.language_model.layers.2.self_attn.v_proj",
    ]  # fmt: skip
    listed = random_.random() < 0.5
    targets: Any = some if listed else random_.choice([*regexes, "all-linear"])
    if listed and random_.random() < 0.3:
        targets = [*some[:2], f"{layers}.1.self_attn.o_proj"]
    options: dict[str, Any] = {
        "target_modules": targets,
        "r": random_.choice([1, 4, 8]),
        "lora_alpha": random_.choice([4, 12.5]),
        "use_dora": random_.random() < 0.4,
        "use_rslora": random_.random() < 0.4,
        "exclude_modules": random_.choice(
            [None, None, rf"{layers}\.0\..*", rf".*(?<!{layers}\.1)\.self_attn\..*", ["o_proj"]]
        ),
        # Sorted, for so PEFT writes them: of keys that overlap, the first in the file counts.
        "rank_pattern": {key: random_.choice([2, 3, 5]) for key in sorted(random_.sample(keys, 2))},
        "alpha_pattern": {
            key: random_.choice([1, 7, 0.5]) for key in sorted(random_.sample(keys, 3))
        },
    }
    if listed and random_.random() < 0.5:
        options["layers_to_transform"] = random_.choice([0, [1], [0, 2], [], 7])
        options["layers_pattern"] = random_.choice(
            [None, "layers", ["blocks", "layers"], "(layers|blocks)", [], ""]
        )
    return options


@pytest.mark.parametrize(
    ("family", "layout"),
    [
        ("qwen2_vl", "today"),
        ("qwen2_vl", "original"),
        ("qwen2_vl", "renamed"),
        ("phi3_v", "original"),
    ],
)
def test_drawn_adapters_equal_pefts(
    engines: dict[str, Engine],
    models: dict[tuple[str, str], Any],
    tmp_path: Path,
    family: str,
    layout: str,
) -> None:
    engine, model = engines[family], models[family, layout]
    random_ = random.Random(f"{family} {layout}")
    stack = LAYERS["original" if layout == "original" else "today"]
    made = 0
    for index in range(ROUNDS[family]):
        options = draw(random_, family, stack)
        if layout != "today":
            # Names of another layout mean nothing to PEFT; here they would say what was meant.
            options["alpha_pattern"].pop("model.language_model.layers.2.self_attn.v_proj", None)
        folder = tmp_path / str(index)
        merged = peft_merges(model, folder, index, options)
        if merged is None:
            continue
        if layout == "renamed":
            rename_to_the_original(folder)
        compare(engine, folder, merged, options)
        made += 1
    assert made >= ROUNDS[family] // 2


def peft_merges(
    model: nn.Module, folder: Path, seed: int, options: dict[str, Any]
) -> dict[str, Tensor] | None:
    """Saves an adapter with random weights, and returns what PEFT makes of the weight of each layer
    that it is on, by its name in ``model``; None if PEFT refuses the settings."""
    torch.manual_seed(seed)
    wrapped: Any = None
    with contextlib.suppress(ValueError):
        wrapped = get_peft_model(model, LoraConfig(**options))
    if wrapped is None:
        return None
    randomise(wrapped)
    wrapped.save_pretrained(str(folder))
    merged = {}
    for name, layer in wrapped.base_model.model.named_modules():
        if isinstance(layer, LoraLayer):
            weight: Any = layer.get_base_layer().weight
            before = weight.detach().clone()
            layer.merge()
            merged[name] = weight.detach().clone()
            weight.data.copy_(before)
    wrapped.base_model.unload()
    return merged


def rename_to_the_original(folder: Path) -> None:
    path = folder / "adapter_model.safetensors"
    save_file(
        {
            key.replace("model.language_model.", "model.").replace(
                "model.visual.", "visual."
            ): value
            for key, value in load_file(path).items()
        },
        path,
    )


@torch.inference_mode()
def compare(
    engine: Engine, folder: Path, merged: dict[str, Tensor], options: dict[str, Any]
) -> None:
    """Asserts that the engine adds to the layers in ``merged``, and so much that they are that."""
    layers = engine.load_adapter("made", folder).layers
    theirs = {engine.backbone.rename(name): weight for name, weight in merged.items()}
    theirs.pop("lm_head", None)
    assert set(layers) == set(theirs), options
    for name, low_rank in layers.items():
        gain = 1 if low_rank.gain is None else low_rank.gain[:, None]
        ours = torch.addmm(gain * engine.linears[name].weight, low_rank.b, low_rank.a)
        difference = (ours - theirs[name]).abs().max()
        assert difference < 1e-5 * theirs[name].abs().max(), (name, options)
