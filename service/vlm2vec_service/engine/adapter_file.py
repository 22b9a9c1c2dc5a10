"""``adapter_model.safetensors``: which tensors PEFT wrote for which layer, and their values."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.errors import AdapterError

WEIGHTS_NAME = "adapter_model.safetensors"
FLOATS = ("F16", "BF16", "F32", "F64")
"""Types of tensors, in the words of safetensors, that an adapter may have."""
# PEFT writes the magnitude with or without ".weight", by its version; the base layer is a copy of
# the base's output layer, which it writes if that is targeted.
TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A|lora_B|lora_magnitude_vector|base_layer)(\.weight)?"
)
SHOWN = 200
"""Characters of a tensor's name in a message: whoever made the file chose it, at any length."""


@dataclass(frozen=True)
class TensorEntry:
    """A tensor in the file: its name there, its type in the words of safetensors, its shape."""

    key: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Contents:
    """What is in a file, by the names that modules have in the backbone.

    ``parts`` has the tensors of each module, by part (``lora_A``). ``written`` has the name of each
    module in the file. ``strays`` are the names of tensors that belong to no module, and ``twice``
    of those that are there under two names.
    """

    parts: dict[str, dict[str, TensorEntry]] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    strays: list[str] = field(default_factory=list)
    twice: list[str] = field(default_factory=list)


def read_contents(folder: Path, backbone: Backbone) -> Contents:
    """Reads what the weights' file in ``folder`` holds, without the values.

    Raises `AdapterError` for a file that is missing or damaged.
    """
    contents = Contents()
    with _opened(folder, torch.device("cpu")) as file:
        for key in file.keys():  # noqa: SIM118
            header = file.get_slice(key)
            entry = TensorEntry(key, str(header.get_dtype()), tuple(header.get_shape()))
            match = TENSOR.fullmatch(key)
            module = backbone.rename(match["module"]) if match else None
            if match is None or module is None:
                contents.strays.append(bounded(key))
                continue
            parts = contents.parts.setdefault(module, {})
            written = contents.written.setdefault(module, match["module"])
            if match["part"] in parts or written != match["module"]:
                contents.twice.append(bounded(f"{module}.{match['part']}"))
            parts[match["part"]] = entry
    return contents


def read_tensors(
    folder: Path, parts: Mapping[str, Mapping[str, TensorEntry]], device: torch.device
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Reads the tensors of each module in ``parts`` to ``device``, module by module.

    Raises `AdapterError` where the file is damaged.
    """
    with _opened(folder, device) as file:
        for module, part in parts.items():
            yield module, {name: file.get_tensor(entry.key) for name, entry in part.items()}


def require_finite(module: str, tensors: Mapping[str, Tensor]) -> None:
    """Raises `AdapterError` that names a tensor of ``module`` in which not all is finite."""
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise AdapterError(f"{module}.{name} holds what is not a finite number")


def bounded(text: str) -> str:
    """``text`` for a message: escaped, and not at any length."""
    escaped = ascii(text)[1:-1]
    return escaped if len(escaped) <= SHOWN else f"{escaped[:SHOWN]}..."


@contextmanager
def _opened(folder: Path, device: torch.device) -> Iterator[Any]:
    path = folder / WEIGHTS_NAME
    if not path.exists():
        pickled = next(folder.glob("adapter_model.*"), None)
        hint = f"; {bounded(pickled.name)} is not loaded, only safetensors are" if pickled else ""
        raise AdapterError(f"{folder}: no {WEIGHTS_NAME}{hint}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: {bounded(str(error))}") from error
