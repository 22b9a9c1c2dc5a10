"""PEFT adapter folders, checked and made ready to embed with."""

import functools
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import FAMILIES
from vlm2vec_service.engine.adapter_config import AdapterConfig
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.linear import AdaptedLinear, LowRank
from vlm2vec_service.errors import AdapterError, listed

WEIGHTS_NAME = "adapter_model.safetensors"
# PEFT writes the magnitude with or without ".weight", by its version.
TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\."
    r"(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.weight)?"
)


@dataclass(frozen=True)
class Adapter:
    """One adapter on the device.

    It never changes, so that a batch that holds it can finish after it was unloaded. ``layers``
    has what it adds, by the name of the linear layer. ``vision_digest`` is a digest of what it
    does to the vision tower, 16 bytes, because image features made with it are its own; it is
    empty if the adapter leaves the tower alone.
    """

    name: str
    layers: dict[str, LowRank]
    vision_digest: bytes
    embedding: EmbeddingConfig

    @property
    def nbytes(self) -> int:
        """Counts the bytes of its tensors on the device."""
        return sum(layer.nbytes for layer in self.layers.values())


Compute: TypeAlias = Callable[[Sequence[Callable[[], LowRank]]], list[LowRank]]
"""A function that runs steps, each a moment's work on the device, and returns their results in
order. A worker has one that lets batches run between the steps."""


def without_pause(steps: Sequence[Callable[[], LowRank]]) -> list[LowRank]:
    """Runs ``steps`` one right after the other, in the thread of the call."""
    return [step() for step in steps]


def load_adapter(
    name: str,
    folder: Path,
    backbone: Backbone,
    linears: Mapping[str, AdaptedLinear],
    compute: Compute = without_pause,
) -> Adapter:
    """Loads the PEFT folder ``folder`` for ``backbone``, whose linear layers are ``linears``.

    ``compute`` runs the work on the device and may spread it over time. Raises `AdapterError` that
    lists every tensor that lands on no layer, every layer that the settings name and the file
    lacks, and every shape that does not fit.
    """
    device = next(iter(linears.values())).weight.device
    config, embedding, parts = _parse(folder, backbone, linears, device)
    modules = [module for module in parts if module in linears]
    steps = [
        functools.partial(_layer, config, module, parts[module], linears[module])
        for module in modules
    ]
    layers = dict(zip(modules, compute(steps), strict=True))
    vision = {key: layers[key] for key in sorted(layers) if key.startswith(backbone.vision_prefix)}
    return Adapter(name, layers, _digest(vision) if vision else b"", embedding)


def check_adapter(
    folder: Path, backbone: Backbone, linears: Mapping[str, AdaptedLinear]
) -> EmbeddingConfig:
    """Checks the PEFT folder ``folder`` for ``backbone`` without loading it.

    Raises `AdapterError` where `load_adapter` would. The shapes of ``backbone`` are enough: it may
    be on the meta device. Returns the contents of the folder's ``embedding.json``.
    """
    return _parse(folder, backbone, linears, torch.device("cpu"))[1]


def _parse(
    folder: Path,
    backbone: Backbone,
    linears: Mapping[str, AdaptedLinear],
    device: torch.device,
) -> tuple[AdapterConfig, EmbeddingConfig, dict[str, dict[str, Tensor]]]:
    """Reads and checks the settings, ``embedding.json`` and the tensors of each layer."""
    config = AdapterConfig.read(folder)
    try:
        embedding = EmbeddingConfig.read(folder)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    if embedding.backbone not in (None, backbone.name):
        raise AdapterError(f"{folder}: made for {embedding.backbone}, the base is {backbone.name}")
    known = FAMILIES[backbone.name].image_settings
    if unknown := set(embedding.image) - known:
        raise AdapterError(
            f"{folder}: image.{listed(unknown)} is no setting of {backbone.name}; "
            f"there are {listed(known)}"
        )
    parts, strays = _by_module(_read(folder, device), backbone)
    _check(folder, config, parts, strays, linears, backbone)
    return config, embedding, parts


def _read(folder: Path, device: torch.device) -> dict[str, Tensor]:
    path = folder / WEIGHTS_NAME
    if not path.exists():
        pickled = next(folder.glob("adapter_model.*"), None)
        hint = f"; {pickled.name} is not loaded, only safetensors are" if pickled else ""
        raise AdapterError(f"{folder}: no {WEIGHTS_NAME}{hint}")
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise AdapterError(f"{path}: {error}") from error


def _by_module(
    tensors: Mapping[str, Tensor], backbone: Backbone
) -> tuple[dict[str, dict[str, Tensor]], list[str]]:
    """Sorts the tensors by module, under its name in ``backbone``, and lists those of none."""
    parts: dict[str, dict[str, Tensor]] = {}
    strays = []
    for name, tensor in tensors.items():
        match = TENSOR.fullmatch(name)
        module = backbone.rename(match["module"]) if match else None
        if match is None or module is None:
            strays.append(name)
        else:
            parts.setdefault(module, {})[match["part"]] = tensor
    return parts, strays


def _check(
    folder: Path,
    config: AdapterConfig,
    parts: Mapping[str, Mapping[str, Tensor]],
    strays: list[str],
    linears: Mapping[str, AdaptedLinear],
    backbone: Backbone,
) -> None:
    shapes = {name: (linear.out_features, linear.in_features) for name, linear in linears.items()}
    shapes |= backbone.inert
    targeted = {name for name in shapes if any(map(config.targets, backbone.known_as(name)))}
    expected = {"lora_A", "lora_B"} | ({"lora_magnitude_vector"} if config.use_dora else set())
    misfits = []
    for module, part in parts.items():
        if module not in shapes:
            strays += [f"{module}.{key}" for key in part]
            continue
        (out, in_), rank = shapes[module], config.rank(module)
        wanted = {"lora_A": (rank, in_), "lora_B": (out, rank), "lora_magnitude_vector": (out,)}
        misfits += [
            f"{module}.{key} is {tuple(tensor.shape)}, not {wanted[key]}"
            for key, tensor in part.items()
            if tuple(tensor.shape) != wanted[key]
        ]
        if set(part) != expected:
            misfits.append(f"{module} has {sorted(part)}, not {sorted(expected)}")
    problems = {
        "tensors that land on no linear layer": strays,
        "layers with tensors that adapter_config.json does not target": [
            module for module in parts if module in shapes and module not in targeted
        ],
        # What never reaches a vector may be absent: our own training does not write it.
        "layers that adapter_config.json targets and the file lacks": [
            module for module in targeted if module in linears and module not in parts
        ],
        "tensors that do not fit": misfits,
    }
    found = [f"{kind}: {listed(names)}" for kind, names in problems.items() if names]
    if not targeted:
        found.append("adapter_config.json targets no linear layer of the base")
    if found:
        raise AdapterError(f"{folder}: {'; '.join(found)}")


@torch.inference_mode()
def _layer(
    config: AdapterConfig, module: str, part: Mapping[str, Tensor], linear: AdaptedLinear
) -> LowRank:
    for name, tensor in part.items():
        if not torch.isfinite(tensor.sum(dtype=torch.float32)):
            raise AdapterError(f"{module}.{name} holds what is not a finite number")
    # Copies: what is read may be the file itself, mapped, at any address and open to change.
    a, b = (part[name].to(torch.float32, copy=True) for name in ("lora_A", "lora_B"))
    scaling = config.scaling(module)
    dtype = linear.weight.dtype
    if not config.use_dora:
        return LowRank(a.to(dtype), (scaling * b).to(dtype))
    gain = part["lora_magnitude_vector"].float() / _row_norms(linear, a, b, scaling)
    shift = None if linear.bias is None else ((1 - gain) * linear.bias.float()).to(dtype)
    return LowRank(a.to(dtype), (scaling * gain[:, None] * b).to(dtype), gain.to(dtype), shift)


def _row_norms(linear: AdaptedLinear, a: Tensor, b: Tensor, scaling: float) -> Tensor:
    """Computes ``‖W + s·BA‖`` by row, float32 ``(out,)``, without making a matrix of that size.

    A row's square is ``‖w‖² + 2s·b·(Aw) + s²·b(AAᵀ)bᵀ``.
    """
    crossed = F.linear(linear.weight, a.to(linear.weight.dtype)).float()
    own = b @ (a @ a.T)
    square = linear.row_norms.square() + ((2 * scaling * crossed + scaling**2 * own) * b).sum(1)
    return square.sqrt()


def _digest(layers: Mapping[str, LowRank]) -> bytes:
    digest = hashlib.blake2b(digest_size=16)
    for name, layer in layers.items():
        digest.update(name.encode())
        for tensor in layer.tensors:
            digest.update(tensor.contiguous().view(torch.uint8).cpu().numpy().data)
    return digest.digest()
