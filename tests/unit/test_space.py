"""The vector space: it changes with what changes a vector, and with nothing else."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import nn

from tests.conftest import adapter_folder
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import VideoRules
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_registry.space import space_of, spaces_of, tensors_digest
from vlm2vec_registry.strict import FormatError

BASE = b"base"
DORA = adapter_folder("qwen2_vl", "dora")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def edited(folder: Path, change: Callable[[dict[str, Any]], object]) -> Path:
    """A copy of the DoRA adapter whose ``adapter_config.json`` was changed."""
    shutil.copytree(DORA, folder)
    values = json.loads((folder / CONFIG).read_text())
    change(values)
    (folder / CONFIG).write_text(json.dumps(values))
    return folder


SAME: dict[str, Callable[[dict[str, Any]], object]] = {
    "order of the layers": lambda v: v.update(target_modules=sorted(v["target_modules"])[::-1]),
    "null keys": lambda v: v.update(new_key=None, eva_config=None, layers_pattern=None),
    "dropout": lambda v: v.update(lora_dropout=0.3),
    "inference mode": lambda v: v.update(inference_mode=not v.get("inference_mode")),
    "initialisation": lambda v: v.update(init_lora_weights="gaussian"),
    "where the base lay": lambda v: v.update(base_model_name_or_path="elsewhere", revision="x"),
    "version of PEFT": lambda v: v.update(peft_version="9.9"),
    "whole alpha as a float": lambda v: v.update(lora_alpha=float(v["lora_alpha"])),
    "keys in another order": lambda v: v.update({"r": v.pop("r")}),
}
OTHER: dict[str, Callable[[dict[str, Any]], object]] = {
    "alpha": lambda v: v.update(lora_alpha=v["lora_alpha"] * 2),
    "alpha of some layers": lambda v: v.update(alpha_pattern={"q_proj": 1}),
    "rsLoRA": lambda v: v.update(use_rslora=True),
    "no DoRA": lambda v: v.update(use_dora=False),
    "what we do not know": lambda v: v.update(new_trick=1),
    "initialisation that changes the base": lambda v: v.update(init_lora_weights="pissa"),
}


@pytest.mark.parametrize("change", SAME.values(), ids=SAME.keys())
def test_what_leaves_the_vector_alone_leaves_the_space(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    assert space_of(BASE, edited(tmp_path / "a", change)) == space_of(BASE, DORA)


@pytest.mark.parametrize("change", OTHER.values(), ids=OTHER.keys())
def test_what_changes_the_vector_changes_the_space(
    tmp_path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    assert space_of(BASE, edited(tmp_path / "a", change)) != space_of(BASE, DORA)


def test_patterns_count_in_their_order(tmp_path: Path) -> None:
    patterns = {"q": 1, ".*q": 2}
    backwards = dict(reversed(patterns.items()))
    first = edited(tmp_path / "a", lambda values: values.update(alpha_pattern=patterns))
    second = edited(tmp_path / "b", lambda values: values.update(alpha_pattern=backwards))
    assert space_of(BASE, first) != space_of(BASE, second)


def test_tensors_count_by_their_contents_not_by_their_file(tmp_path: Path) -> None:
    tensors = load_file(DORA / WEIGHTS)
    again = tmp_path / "again.safetensors"
    renamed = {
        name.removesuffix(".weight") if "magnitude" in name else name: tensor
        for name, tensor in reversed(tensors.items())
    }
    save_file(renamed, again, metadata={"format": "pt", "made": "today"})
    assert again.read_bytes() != (DORA / WEIGHTS).read_bytes()
    assert tensors_digest(again) == tensors_digest(DORA / WEIGHTS)
    name = next(iter(tensors))
    for changed in (tensors[name] * 2, tensors[name].T.contiguous(), tensors[name].half()):
        save_file({**tensors, name: changed}, again)
        assert tensors_digest(again) != tensors_digest(DORA / WEIGHTS)
    save_file({key: value for key, value in tensors.items() if key != name}, again)
    assert tensors_digest(again) != tensors_digest(DORA / WEIGHTS)


def test_an_adapter_that_peft_saves_again_keeps_its_space(tmp_path: Path) -> None:
    class TwoLinears(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.q_proj, self.v_proj = nn.Linear(8, 8), nn.Linear(8, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.q_proj(x) + self.v_proj(x)

    torch.manual_seed(0)
    base = TwoLinears()
    config = LoraConfig(r=4, use_dora=True, target_modules=["v_proj", "q_proj"], lora_dropout=0.1)
    get_peft_model(base, config).save_pretrained(str(tmp_path / "first"))
    loaded = PeftModel.from_pretrained(TwoLinears(), str(tmp_path / "first"))
    loaded.save_pretrained(str(tmp_path / "second"))
    assert space_of(BASE, tmp_path / "first") == space_of(BASE, tmp_path / "second")


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ('{"backbone": "qwen2_vl", "base_model": "x", "base_revision": "y"}', True),
        ('{"dimensions": [64, 128]}', True),
        ('{"normalize": true, "image": {"decode": "viewed"}}', True),
        ('{"normalize": false}', False),
        ('{"prompt": {"suffix": "."}}', False),
        ('{"image": {"max_pixels": 1003520}}', False),
        ('{"image": {"decode": "raw"}}', False),
        ('{"image": {"resize": [1344, 1344]}}', False),
        ('{"max_text_tokens": 256}', False),
    ],
)
def test_settings_of_the_embedding_count_where_they_change_it(
    tmp_path: Path, text: str, same: bool
) -> None:
    folder = shutil.copytree(DORA, tmp_path / "a")
    (folder / "embedding.json").write_text(text)
    assert (space_of(BASE, folder) == space_of(BASE, DORA)) == same


@pytest.mark.parametrize(
    ("own", "same"),
    [
        (EmbeddingConfig(), True),
        (EmbeddingConfig(base_model="elsewhere", dimensions=(64,)), True),
        (EmbeddingConfig(pooling="mean"), False),
        (EmbeddingConfig(prompt=PromptTemplate(suffix="<|endoftext|>")), False),
        (EmbeddingConfig(video=VideoRules(max_frames=64)), False),
    ],
)
def test_what_a_base_says_of_itself_counts_where_it_changes_a_vector(
    own: EmbeddingConfig, same: bool
) -> None:
    assert (space_of(BASE, None, own) == space_of(BASE, None)) == same
    assert spaces_of(BASE, None, own) == (space_of(BASE, None, own),)
    # An adapter has a file of its own.
    assert space_of(BASE, DORA, own) == space_of(BASE, DORA)


def test_the_rules_keep_giving_what_they_gave() -> None:
    """Vectors are stored under these: a rule that is to give others has to be a new one."""
    assert spaces_of(BASE, DORA) == (
        "0c1af717f993a152c5e638674ec0888d",
        "b13041864482210bb4312540b28a66c7",
    )
    assert spaces_of(BASE, None) == ("cae662172fd450bb0cd710a769079c05",)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\0" * 7, b"\xff" * 8, b"\x02" + b"\0" * 7 + b"[]", b"\x05" + b"\0" * 7 + b'{"a":',
        b"\x07" + b"\0" * 7 + b'{"a":1}',
        b"\x38" + b"\0" * 7 + b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[0,9]}}   ',
        b"\x38" + b"\0" * 7 + b'{"a":{"dtype":"U8","shape":[9],"data_offsets":[9,0]}}   ',
    ],
)  # fmt: skip
def test_weights_that_are_none_are_refused_by_their_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / WEIGHTS).write_bytes(data)
    with pytest.raises(FormatError, match=WEIGHTS):
        tensors_digest(tmp_path / WEIGHTS)
