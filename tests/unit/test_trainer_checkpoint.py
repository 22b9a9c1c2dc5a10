"""A checkpoint folder that transformers' own Trainer wrote is published without its optimizer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from vlm2vec_registry import artifact
from vlm2vec_registry.adapter_import import import_adapter
from vlm2vec_registry.errors import ArtifactError
from vlm2vec_registry.store import Registry


class TrainedToy(nn.Module):
    """One linear layer that an adapter goes on."""

    def __init__(self) -> None:
        super().__init__()
        self.q_proj = nn.Linear(4, 4)

    def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
        return {"loss": (self.q_proj(x) - labels).square().mean()}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    model = get_peft_model(TrainedToy(), LoraConfig(r=2, target_modules=["q_proj"]))
    rows: Any = [{"x": torch.ones(4), "labels": torch.zeros(4)}] * 4
    settings = TrainingArguments(
        str(folder), max_steps=1, save_steps=1, report_to=[], use_cpu=True, disable_tqdm=True
    )
    Trainer(model, settings, train_dataset=rows).train()
    return folder / "checkpoint-1"


def test_what_the_trainer_leaves_is_left_behind(checkpoint: Path, tmp_path: Path) -> None:
    there = {path.name for path in checkpoint.iterdir()}
    assert there >= {
        "optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin", "trainer_state.json",
        artifact.CONFIG, artifact.WEIGHTS,
    }  # fmt: skip
    artifact.check_folder(checkpoint)
    # The folder above has the checkpoint below it, and nothing else.
    imported = import_adapter(checkpoint.parent, tmp_path / "out")
    assert imported.source == checkpoint
    assert {"optimizer.pt", "rng_state.pth", "training_args.bin"} <= set(imported.left)
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names - {"README.md"} == {artifact.CONFIG, artifact.WEIGHTS}


def test_only_its_adapter_is_published(checkpoint: Path, checkpoints: Path, tmp_path: Path) -> None:
    registry = Registry(str(tmp_path / "store"))
    version = registry.publish("toy", checkpoint, base=checkpoints / "qwen2_vl")
    files = {path.name for path in Path(version.uri.removeprefix("file://")).iterdir()}
    assert files - {"README.md"} == {*artifact.FILES, "MLmodel"}


@pytest.mark.parametrize(
    "name",
    ["rng_state_x.pth", "optimizer.bin", "optimizer.pt.py", "training_args.py", "my_optimizer.pt"],
)
def test_what_only_looks_like_it_is_refused(checkpoint: Path, name: str) -> None:
    (checkpoint / name).touch()
    try:
        with pytest.raises(ArtifactError, match=f"{name} may hold code"):
            artifact.check_folder(checkpoint)
    finally:
        (checkpoint / name).unlink()
