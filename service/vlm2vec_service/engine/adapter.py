"""PEFT adapter folders, checked and made ready to embed with."""

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import check_embedding
from vlm2vec_service.engine.adapter_config import AdapterConfig
from vlm2vec_service.engine.adapter_file import (
    Contents,
    read_contents,
    read_tensors,
    require_finite,
)
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.fit import fit
from vlm2vec_service.engine.join import join, split
from vlm2vec_service.engine.linear import AdaptedLinear, Product, products_of
from vlm2vec_service.engine.low_rank import LowRank
from vlm2vec_service.engine.placement import Placement
from vlm2vec_service.engine.stage import Group
from vlm2vec_service.errors import AdapterError

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Adapter:
    """One adapter on the device.

    It never changes, so that a batch that holds it can finish after it was unloaded. ``products``
    has what it adds, by the name of the product; ``layers`` are views of that by the name of the
    linear layer. ``exact`` has the same unrounded, float32 on the host, by the name of the layer,
    for merging. ``pointers`` says where ``products`` lie on a GPU: int64 ``(products, 5)``.
    ``media_digest`` is a digest of what the adapter does to the towers of media, 16 bytes, because
    features made with it are its own; it is empty if the adapter leaves them alone.
    """

    name: str
    products: dict[str, LowRank]
    layers: dict[str, LowRank]
    exact: dict[str, LowRank]
    pointers: npt.NDArray[np.int64]
    media_digest: bytes
    embedding: EmbeddingConfig

    @property
    def nbytes(self) -> int:
        """Counts the bytes of its tensors on the device."""
        return sum(product.nbytes for product in self.products.values())

    def group(self, start: int, stop: int, merged: Mapping[str, Tensor] | None = None) -> Group:
        """Makes the group of the rows from ``start`` up to, but without, ``stop``, which go through
        the ``merged`` weights if there are any."""
        return Group(self.products, start, stop, merged, self.pointers)


T = TypeVar("T")


class Compute(Protocol):
    """A function that runs steps, each a moment's work on the device, and returns their results in
    order. A worker has one that lets batches run between the steps."""

    def __call__(self, steps: Sequence[Callable[[], T]], /) -> list[T]:
        """Runs ``steps``."""


def without_pause(steps: Sequence[Callable[[], T]], /) -> list[T]:
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
    config, embedding, contents, placement = _parse(folder, backbone, linears)
    parts = {module: part for module, part in contents.parts.items() if module in linears}
    steps = [
        functools.partial(
            _exact, module, part, linears[module], placement.scalings[module], config.use_dora
        )
        for module, part in read_tensors(folder, parts, device)
    ]
    exact = dict(zip(parts, compute(steps), strict=True))
    products = products_of(linears)
    touched = [product for product in products if any(part.name in exact for part in product.parts)]
    joins = [functools.partial(join, product, exact) for product in touched]
    joined = dict(zip((product.name for product in touched), compute(joins), strict=True))
    towers = {key: joined[key] for key in joined if key.startswith(backbone.media_prefixes)}
    return Adapter(
        name=name,
        products=joined,
        layers={
            part.name: layer
            for product in touched
            for part, layer in split(product, exact, joined[product.name])
        },
        exact={module: layer.to(torch.device("cpu")) for module, layer in exact.items()},
        pointers=_pointers(products, joined),
        media_digest=_digest(towers) if towers else b"",
        embedding=embedding,
    )


def check_adapter(
    folder: Path, backbone: Backbone, linears: Mapping[str, AdaptedLinear]
) -> EmbeddingConfig:
    """Checks the PEFT folder ``folder`` for ``backbone`` without loading it.

    Raises `AdapterError` where `load_adapter` would. The shapes of ``backbone`` are enough: it may
    be on the meta device. Returns the contents of the folder's ``embedding.json``.
    """
    _, embedding, contents, placement = _parse(folder, backbone, linears)
    parts = {module: part for module, part in contents.parts.items() if module in linears}
    for module, tensors in read_tensors(folder, parts, torch.device("cpu")):
        scaled = placement.scalings[module] * tensors["lora_B"].float()
        require_finite(module, {**tensors, "lora_B": scaled})
    return embedding


def _parse(
    folder: Path, backbone: Backbone, linears: Mapping[str, AdaptedLinear]
) -> tuple[AdapterConfig, EmbeddingConfig, Contents, Placement]:
    """Reads and checks the settings, ``embedding.json`` and which tensors there are."""
    config = AdapterConfig.read(folder)
    try:
        embedding = EmbeddingConfig.read(folder)
    except ValueError as error:
        raise AdapterError(str(error)) from error
    check_embedding(backbone.name, embedding, folder)
    contents = read_contents(folder, backbone)
    try:
        placement = fit(config, contents, backbone, linears)
    except AdapterError as error:
        raise AdapterError(f"{folder}: {error}") from error
    _require_base(folder, backbone, contents)
    if unused := len(config.alpha_pattern) - placement.alphas_used:
        log.warning("%s: %d keys of alpha_pattern match no layer, as in PEFT", folder, unused)
    return config, embedding, contents, placement


def _require_base(folder: Path, backbone: Backbone, contents: Contents) -> None:
    """Raises `AdapterError` if PEFT would put other token embeddings into the base.

    It writes a copy of the output layer where that is targeted, and reads it back; where the output
    layer is the embeddings, they have to be the base's own. On the meta device nobody can tell.
    """
    layer = {module: part for module, part in contents.parts.items() if "base_layer" in part}
    embeddings = backbone.model.embed_tokens.weight
    if not backbone.tied or embeddings.is_meta:
        return
    for module, tensors in read_tensors(folder, layer, embeddings.device):
        copy = tensors["base_layer"]
        # Whichever of the two is coarser was rounded.
        if not any(
            torch.equal(copy.to(d), embeddings.to(d)) for d in (copy.dtype, embeddings.dtype)
        ):
            raise AdapterError(f"{folder}: {module}.base_layer is not the base's token embeddings")


@torch.inference_mode()
def _exact(
    module: str, part: Mapping[str, Tensor], linear: AdaptedLinear, scaling: float, dora: bool
) -> LowRank:
    """Computes what the adapter adds to ``linear``, in float32."""
    # Copies: what is read may be the file itself, mapped, at any address and open to change.
    a, b = (part[name].to(torch.float32, copy=True) for name in ("lora_A", "lora_B"))
    require_finite(module, {**part, "lora_B": scaling * b})
    if not dora:
        return LowRank(a, scaling * b)
    gain = part["lora_magnitude_vector"].float() / _row_norms(linear, a, b, scaling)
    require_finite(module, {"lora_magnitude_vector over the norms": gain})
    shift = None if linear.bias is None else (1 - gain) * linear.bias.float()
    return LowRank(a, scaling * gain[:, None] * b, gain, shift)


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


def _pointers(products: Sequence[Product], added: Mapping[str, LowRank]) -> npt.NDArray[np.int64]:
    """Lists where what is ``added`` to each of ``products`` lies, int64 ``(products, 5)``."""
    pointers = np.zeros((len(products), 5), np.int64)
    for product in products:
        if product.name in added:
            pointers[product.index] = added[product.name].pointers
    return pointers
