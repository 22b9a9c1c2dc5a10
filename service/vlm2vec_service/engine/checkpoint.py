"""Weights of Hugging Face checkpoint folders, from safetensors files straight to the device."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from vlm2vec_service.errors import CheckpointError, listed

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"


def shards(folder: Path) -> list[Path]:
    """Lists the safetensors files of a checkpoint. Raises `CheckpointError` if there are none."""
    index = folder / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index}: no shard index ({error!r})") from error
        if any(Path(name).name != name for name in names):
            raise CheckpointError(f"{index}: a shard lies outside the folder")
        return [folder / name for name in names]
    if (folder / SINGLE).exists():
        return [folder / SINGLE]
    hint = ""
    if any(folder.glob("*.bin")):
        hint = "; pickled weights (*.bin) are not loaded, convert them to safetensors"
    raise CheckpointError(f"{folder}: neither {INDEX} nor {SINGLE}{hint}")


def load_weights(
    model: nn.Module,
    folder: Path,
    rename: Callable[[str], str | None],
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Fills ``model``, which lives on the meta device, from the checkpoint in ``folder``.

    Tensors go one by one from the file to ``device`` in ``dtype``; there is no second copy of the
    model. ``rename`` maps a tensor's name in the file to the parameter's, or to None if the
    tensor never reaches a vector (``lm_head``), and then it is not read. Raises `CheckpointError`
    that names every tensor that is missing, unexpected or of another shape.
    """
    wanted = dict(model.named_parameters())
    unexpected: list[str] = []
    misshapen: list[str] = []
    for name, target, tensor in _tensors(folder, rename, device):
        parameter = wanted.pop(target, None)
        if parameter is None:
            unexpected.append(name)
        elif parameter.shape != tensor.shape:
            misshapen.append(f"{name} is {tuple(tensor.shape)}, not {tuple(parameter.shape)}")
        else:
            parent, _, leaf = target.rpartition(".")
            value = nn.Parameter(tensor.to(dtype), requires_grad=False)
            setattr(model.get_submodule(parent), leaf, value)
    problems = [
        f"{kind}: {listed(names)}"
        for kind, names in (
            ("missing", wanted),
            ("unexpected", unexpected),
            ("of another shape", misshapen),
        )
        if names
    ]
    if problems:
        raise CheckpointError(f"{folder}: tensors {'; '.join(problems)}")


def _tensors(
    folder: Path, rename: Callable[[str], str | None], device: torch.device
) -> Iterator[tuple[str, str, Tensor]]:
    """Reads the tensors that ``rename`` gives a name; each comes with its name in the file, too."""
    for path in shards(folder):
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                for name in file.keys():  # noqa: SIM118 (a file, not a dict)
                    target = rename(name)
                    if target is not None:
                        yield name, target, file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: {error}") from error
