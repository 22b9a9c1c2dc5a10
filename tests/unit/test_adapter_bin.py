"""Real ``torch.save`` files become safetensors with the same bits, and equal vectors."""

import shutil
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from tests.conftest import CASES, adapter_folder, case_request
from vlm2vec_registry.adapter_bin import convert
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import ArtifactError
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.settings import EngineSettings

RANDOM = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
ODD = torch.tensor([0.0, -0.0, float("nan"), float("inf"), 1e-42, 1 / 3])


def module_state() -> Any:
    """An ordered dictionary with an attribute, ``_metadata``."""
    module = nn.Sequential(nn.Linear(3, 4), nn.Embedding(2, 3))
    return module.state_dict()


def tied() -> dict[str, Tensor]:
    """Tensors that share one storage, one of them behind the others."""
    return {"whole": RANDOM, "same": RANDOM, "row": RANDOM[3], "tail": RANDOM[4:, 7:]}


FILES: dict[str, Any] = {
    "float32": {"a": RANDOM},
    "float16": {"a": RANDOM.half()},
    "bfloat16": {"a": RANDOM.bfloat16(), "b": ODD.bfloat16()},
    "float64": {"a": RANDOM.double()},
    "integers": {
        str(dtype): torch.arange(-3, 4).to(dtype)
        for dtype in (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
    },
    "odd numbers": {"a": ODD, "b": ODD.half()},
    "transposed": {"a": RANDOM.t(), "b": RANDOM.reshape(2, 3, 10).permute(2, 0, 1)},
    "slices": {"a": RANDOM[1:5:2, 2:9:3], "b": RANDOM[:, 4]},
    "expanded": {"a": RANDOM[:1].expand(5, 10)},
    "shared storage": tied(),
    "parameters": {"a": nn.Parameter(RANDOM), "b": nn.Parameter(RANDOM[2].half(), False)},
    "ordered": OrderedDict(b=RANDOM, a=RANDOM[0]),
    "module": module_state(),
    "scalar": {"a": torch.tensor(2.5)},
    "empty": {"a": torch.zeros(0), "b": torch.zeros(3, 0, 5), "c": RANDOM},
    "no tensor": {},
    "names": {"base_model.model.a.lora_A.weight": RANDOM, "ü 漢": RANDOM, '"\\': RANDOM},
    "many": {f"layers.{i}": torch.full((2, 2), i, dtype=torch.bfloat16) for i in range(1500)},
}


def assert_same(given: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert set(given) == set(expected)
    for name, tensor in expected.items():
        assert given[name].dtype == tensor.dtype, name
        assert given[name].shape == tensor.shape, name
        bits = [
            t.detach().contiguous().reshape(-1).view(torch.uint8) for t in (given[name], tensor)
        ]
        assert torch.equal(*bits), name


@pytest.mark.parametrize("name", FILES)
def test_tensors_have_the_bits_that_torch_reads(tmp_path: Path, name: str) -> None:
    source, target = tmp_path / "adapter_model.bin", tmp_path / "adapter_model.safetensors"
    torch.save(FILES[name], source)
    expected = torch.load(source, weights_only=True)
    assert convert(source, target) == len(FILES[name])
    assert_same(load_file(target), expected)


def test_a_folder_that_peft_itself_saved(checkpoints: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from tests.unit.peft_adapters import plain_backbone

    config = LoraConfig(r=4, target_modules=["q_proj", "qkv"], use_dora=True)
    model = get_peft_model(plain_backbone(checkpoints / "qwen2_vl"), config)
    for safe in (False, True):
        model.save_pretrained(str(tmp_path), safe_serialization=safe)
    shutil.move(tmp_path / "adapter_model.safetensors", tmp_path / "peft.safetensors")
    assert convert(tmp_path / "adapter_model.bin", tmp_path / "ours.safetensors") > 0
    assert_same(*(load_file(tmp_path / f"{name}.safetensors") for name in ("ours", "peft")))


@pytest.mark.parametrize("architecture", ["qwen2_vl", "phi3_v"])
@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_the_converted_adapter_gives_the_same_vectors(
    checkpoints: Path, tmp_path: Path, architecture: str, adapter: str
) -> None:
    original = adapter_folder(architecture, adapter)
    shutil.copy(original / "adapter_config.json", tmp_path)
    torch.save(load_file(original / "adapter_model.safetensors"), tmp_path / "adapter_model.bin")
    convert(tmp_path / "adapter_model.bin", tmp_path / "adapter_model.safetensors")

    preprocessor = load_preprocessor(checkpoints / architecture)
    prepared = [
        preprocessor.prepare(case_request(case), EmbeddingConfig())
        for case in CASES[architecture][:4]
    ]
    engine = Engine.load(checkpoints / architecture, EngineSettings(dtype="float32"))
    vectors = []
    for name, folder in (("original", original), ("converted", tmp_path)):
        engine.load_adapter(name, folder)
        vectors.append(engine.embed([(item, name) for item in prepared]))
    np.testing.assert_array_equal(vectors[0], vectors[1])
    bare = engine.embed([(item, None) for item in prepared])
    assert (vectors[0] * bare).sum(axis=1).max() < 0.999


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([RANDOM], "instruction EMPTY_LIST"),
        (RANDOM, "holds a StoredTensor, not a dictionary"),
        ({"model": {"a": RANDOM}}, "'model' is a dict, not a tensor"),
        ({"a": RANDOM, "step": 5}, "'step' is a int, not a tensor"),
        ({5: RANDOM}, "a key is a int, not a text"),
        ({"a": RANDOM.to(torch.complex64)}, "ComplexFloatStorage"),
        ({"a": RANDOM.to(torch.float8_e4m3fn)}, "_rebuild_tensor_v3"),
        ({"a": RANDOM.to_sparse()}, "_rebuild_sparse_tensor"),
        ({"a": torch.device("cpu")}, r"torch\.device"),
        ({"a": torch.float32}, r"torch\.float32"),
        ({"__metadata__": RANDOM}, "'__metadata__' is no name"),
    ],
)
def test_what_is_more_than_named_tensors_is_refused(
    tmp_path: Path, content: Any, problem: str
) -> None:
    torch.save(content, tmp_path / "adapter_model.bin")
    with pytest.raises(ArtifactError, match=problem):
        convert(tmp_path / "adapter_model.bin", tmp_path / "adapter_model.safetensors")
    assert not (tmp_path / "adapter_model.safetensors").exists()


def test_a_file_of_old_torch_is_refused_with_the_way_out(tmp_path: Path) -> None:
    path = tmp_path / "adapter_model.bin"
    torch.save({"a": RANDOM}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(ArtifactError, match=r"torch before 1\.6.*weights_only=True"):
        convert(path, tmp_path / "out")


def test_limits_count_what_is_written(tmp_path: Path) -> None:
    """Views of one small storage may be many times larger than the file."""
    path = tmp_path / "adapter_model.bin"
    torch.save({str(i): torch.zeros(1).expand(1000, 1000) for i in range(5)}, path)
    assert path.stat().st_size < 10_000
    assert convert(path, tmp_path / "out", most_bytes=20_000_000) == 5
    with pytest.raises(ArtifactError, match="more than 19999999 bytes"):
        convert(path, tmp_path / "out2", most_bytes=19_999_999)
    with pytest.raises(ArtifactError, match="more than 1000 bytes"):
        convert(path, tmp_path / "out2", most_bytes=1000)
