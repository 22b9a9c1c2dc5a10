"""What ``vlm2vec embed`` refuses to start with, and what its help says."""

import re
import shutil
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest

from tests.conftest import adapter_folder
from tests.e2e.embed_command import vlm2vec
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings


def refuse_missing_weights(folder: Path) -> list[str]:
    (folder / "base" / "model.safetensors").unlink()
    return []


def refuse_model_type(folder: Path) -> list[str]:
    path = folder / "base" / "config.json"
    path.write_text(path.read_text().replace('"model_type": "qwen2_vl"', '"model_type": "gpt2"', 1))
    return []


def refuse_adapter_of_another_base(folder: Path) -> list[str]:
    return ["--adapter", f"v2={adapter_folder('phi3_v', 'lora')}"]


def refuse_adapter_without_name(folder: Path) -> list[str]:
    return ["--adapter", str(adapter_folder("qwen2_vl", "lora"))]


def refuse_adapter_name_given_twice(folder: Path) -> list[str]:
    return [f"--adapter=v2={adapter_folder('qwen2_vl', name)}" for name in ("lora", "dora")]


@pytest.mark.parametrize(
    ("prepare", "problem"),
    [
        (refuse_missing_weights, r"Error: .*/base: neither model\.safetensors\.index\.json nor "),
        (refuse_model_type, r"Error: .*/base/config\.json: model_type 'gpt2' is not one of "),
        (refuse_adapter_of_another_base, r"Error: .*adapters/phi3_v/lora: "),
        (refuse_adapter_without_name, "Error: Invalid value for '--adapter': '.*' is not NAME=DIR"),
        (refuse_adapter_name_given_twice, "Error: Invalid value for '--adapter': 'v2' is given"),
    ],
)
def test_what_cannot_start_is_one_sentence_and_status_2(
    checkpoints: Path, tmp_path: Path, prepare: Callable[[Path], list[str]], problem: str
) -> None:
    shutil.copytree(checkpoints / "qwen2_vl", tmp_path / "base")
    (tmp_path / "requests.jsonl").write_text('{"id": 1, "text": "a"}\n')
    result = vlm2vec(
        "embed",
        *("--base", tmp_path / "base"),
        *("--input", tmp_path / "requests.jsonl"),
        *("--output", tmp_path / "out.npz"),
        *prepare(tmp_path),
    )
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    sentence = result.stderr.splitlines()[-1]
    assert re.match(problem, sentence), result.stderr
    # Click shows the usage above errors of its own; ours have nothing beside them.
    assert result.stderr.count("\n") == 1 or result.stderr.startswith("Usage: vlm2vec embed")
    assert {path.name for path in tmp_path.iterdir()} == {"base", "requests.jsonl"}


def test_help_has_every_setting_with_its_sentence_and_default() -> None:
    result = vlm2vec("embed", "--help", environment={"COLUMNS": "100"})
    assert result.returncode == 0
    text = " ".join(result.stdout.split())
    for settings in (EngineSettings, Limits, VideoSettings):
        for item in fields(settings):
            assert f"--{item.name.replace('_', '-')} " in text
            assert item.metadata["help"] in text
            default = item.default
            if isinstance(default, bool):  # shown as the flag that says it
                default = ("" if default else "no-") + item.name.replace("_", "-")
            assert re.search(rf"\[default: {re.escape(str(default))}[;\]]", text)
