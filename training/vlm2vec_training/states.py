"""Saves the state of a run, from which it goes on as if it had never stopped.

A state is a folder ``step-N`` of safetensors and JSON, which appears whole, so that a kill at any
moment leaves one to go on from. What is random is decided by seed and step, and needs no state.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict, set_peft_model_state_dict
from safetensors.torch import load_file, save_file
from torch import Tensor

from vlm2vec_registry.files import whole
from vlm2vec_training.errors import TrainingError


def save(folder: Path, step: int, peft: Any, optimizer: torch.optim.Optimizer, facts: Any) -> None:
    """Writes the state after ``step`` steps to ``folder`` and removes older ones.

    ``facts`` is a dict of plain JSON, which `load` gives back.
    """
    tensors = {
        f"adapter.{name}": tensor for name, tensor in get_peft_model_state_dict(peft).items()
    }
    for index, values in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    place = folder / f"step-{step}"
    shutil.rmtree(place, ignore_errors=True)
    with whole(place) as part:
        part.mkdir(parents=True)
        save_file(tensors, part / "state.safetensors")
        (part / "facts.json").write_text(json.dumps({"step": step, **facts}, indent=2) + "\n")
    for old in folder.glob("step-*"):
        if old != place:
            shutil.rmtree(old, ignore_errors=True)


def latest(folder: Path) -> Path | None:
    """Finds the newest state in ``folder``, or None."""
    found = sorted(folder.glob("step-*"), key=lambda path: int(path.name.removeprefix("step-")))
    return found[-1] if found else None


def load(state: Path, peft: Any, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Puts ``state`` into adapter and optimizer; returns its facts, with ``step`` among them.

    Raises `TrainingError` for a state that cannot be read.
    """
    try:
        facts: dict[str, Any] = json.loads((state / "facts.json").read_text())
        tensors = load_file(state / "state.safetensors")
    except (OSError, ValueError) as error:
        raise TrainingError(f"{state}: {error}; remove it to resume from nothing") from error
    adapter: dict[str, Tensor] = {}
    moments: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        kind, _, rest = name.partition(".")
        if kind == "adapter":
            adapter[rest] = tensor
        else:
            index, _, key = rest.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
    set_peft_model_state_dict(peft, adapter)
    values = optimizer.state_dict()
    values["state"] = moments
    optimizer.load_state_dict(values)
    return facts
