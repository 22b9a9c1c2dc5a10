"""The engine: prepared inputs to vectors, each with its own adapter."""

import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.backbones.table import family_of, read_json
from vlm2vec_service.engine.adapter import Adapter, Compute, at_once, load_adapter
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.checkpoint import load_weights
from vlm2vec_service.engine.linear import Group, Rows, install
from vlm2vec_service.engine.packing import Item, PackedBatch, batches, pack
from vlm2vec_service.engine.vision_cache import Key, VisionCache
from vlm2vec_service.errors import AdapterError, CheckpointError, NotFoundError
from vlm2vec_service.preprocess.prepared import Media, Prepared
from vlm2vec_service.settings import EngineSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Engine:
    """A backbone on a device and the adapters loaded beside it.

    ``embed`` runs one batch at a time, from whichever thread calls it; adapters can be loaded and
    unloaded from other threads meanwhile, without stopping it.
    """

    def __init__(self, backbone: Backbone, settings: EngineSettings) -> None:
        self.device = next(backbone.parameters()).device
        # More would leave a CPU's caches, and leave a GPU's units idle if it were less.
        on_cpu = self.device.type == "cpu"
        self.token_budget = settings.token_budget or (2048 if on_cpu else 16_384)
        self.vision_batch_patches = settings.vision_batch_patches or (2048 if on_cpu else 65_536)
        self.rows = Rows()
        self.linears = install(backbone, self.rows)
        self.backbone = backbone.eval()
        self.cache = VisionCache(settings.vision_cache_bytes)
        self._adapters: dict[str, Adapter] = {}
        self._running = threading.Lock()

    @classmethod
    def load(cls, base: Path, settings: EngineSettings | None = None) -> "Engine":
        """Loads the checkpoint folder ``base``. Raises `CheckpointError`."""
        settings = settings or EngineSettings()
        if settings.dtype not in DTYPES:
            raise CheckpointError(f"dtype {settings.dtype!r} is not one of {', '.join(DTYPES)}")
        backbone = build_backbone(base)
        device = find_device(settings.device)
        load_weights(backbone, base, backbone.rename, device, DTYPES[settings.dtype])
        return cls(backbone, settings)

    @property
    def adapters(self) -> dict[str, Adapter]:
        """The loaded adapters by name: a snapshot."""
        return dict(self._adapters)

    def load_adapter(self, name: str, folder: Path, compute: Compute = at_once) -> Adapter:
        """Loads a PEFT folder as ``name``, aside of running batches, and then switches to it.

        A batch that started before finishes with what it had. ``compute`` runs what takes the
        device, in steps. Raises `AdapterError`.
        """
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no such folder")
        adapter = load_adapter(name, folder, self.backbone, self.linears, compute)
        # Assigning one key is atomic: a batch sees the old adapter or the new, never a part.
        self._adapters[name] = adapter
        return adapter

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; its memory is free when the batches that use it are done."""
        if self._adapters.pop(name, None) is None:
            raise NotFoundError(f"adapter {name!r} is not loaded")

    def adapter(self, name: str) -> Adapter:
        """The adapter loaded as ``name``. Raises `NotFoundError`."""
        adapter = self._adapters.get(name)
        if adapter is None:
            loaded = ", ".join(sorted(self._adapters)) or "none"
            raise NotFoundError(f"adapter {name!r} is not loaded; loaded: {loaded}")
        return adapter

    def embed(
        self, inputs: Sequence[tuple[Prepared, str | None]], normalize: bool | None = None
    ) -> npt.NDArray[np.float32]:
        """Vectors float32 ``(len(inputs), dim)``, in order, each made with the adapter it names (None
        is the base model).

        ``normalize`` None does as each adapter's ``embedding.json`` says, which is to normalise
        unless it says otherwise. Batches hold at most ``token_budget`` tokens and mix adapters freely; what else is in a
        batch does not change a vector. Raises `NotFoundError` for an unknown adapter.
        """
        items = [
            Item(prepared, None if name is None else self.adapter(name), normalize)
            for prepared, name in inputs
        ]
        vectors = np.empty((len(items), self.dim), np.float32)
        for indices in batches(items, self.token_budget):
            vectors[indices] = self.run([items[i] for i in indices])
        return vectors

    @property
    def dim(self) -> int:
        """Dimensions of a vector."""
        return int(self.backbone.model.embed_tokens.embedding_dim)

    @torch.inference_mode()
    def run(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """One batch, however long: float32 ``(len(items), dim)``, in order."""
        batch = pack(items, self.device)
        with self._running:
            hidden = self._embeddings(batch)
            rotary = self.backbone.rotary(batch.positions, batch.lengths)
            self.rows.groups = batch.token_groups
            states = self.backbone.decode(
                hidden, rotary, batch.segments, batch.last, self.rows, batch.input_groups
            ).float()
        unit = torch.tensor([item.unit for item in batch.items], device=self.device)
        states = torch.where(unit[:, None], F.normalize(states, dim=1), states)
        vectors = np.empty(states.shape, np.float32)
        vectors[batch.order] = states.cpu().numpy()
        return vectors

    def _embeddings(self, batch: PackedBatch) -> Tensor:
        """The first hidden states ``(total, hidden)``: token embeddings, features in their places."""
        hidden = self.backbone.embed_tokens(batch.token_ids)
        features = self._features(batch.items)
        offset = 0
        for item in batch.items:
            for media in item.prepared.media:
                start = offset + media.start
                hidden[start : start + media.tokens] = features[_key(media, item.adapter)]
            offset += len(item.prepared)
        return hidden

    def _features(self, items: Sequence[Item]) -> dict[Key, Tensor]:
        """Features of all media in ``items``, each encoded once or taken from the cache."""
        features: dict[Key, Tensor] = {}
        missing: dict[Key, tuple[Media, Adapter | None]] = {}
        for item in items:
            for media in item.prepared.media:
                key = _key(media, item.adapter)
                if key in features or key in missing:
                    continue
                cached = self.cache.get(key)
                if cached is None:
                    missing[key] = (media, item.adapter if key[1] else None)
                else:
                    features[key] = cached
        for keys in self._vision_batches(missing):
            adapter = missing[keys[0]][1]
            # The number of rows changes inside the tower; all of them are this adapter's.
            self.rows.groups = [Group(adapter.layers, 0, sys.maxsize)] if adapter else []
            encoded = self.backbone.encode([missing[key][0] for key in keys])
            for key, states in zip(keys, encoded, strict=True):
                features[key] = states
                self.cache.put(key, states)
        return features

    def _vision_batches(self, missing: dict[Key, tuple[Media, Adapter | None]]) -> list[list[Key]]:
        """Cuts ``missing`` by adapter, and by ``vision_batch_patches``."""
        cut: list[list[Key]] = []
        used = 0
        for key in sorted(missing, key=lambda key: key[1]):
            patches = self.backbone.patches(missing[key][0])
            full = used + patches > self.vision_batch_patches
            if not cut or full or cut[-1][-1][1] != key[1]:
                cut.append([])
                used = 0
            cut[-1].append(key)
            used += patches
        return cut


def _key(media: Media, adapter: Adapter | None) -> Key:
    return media.digest, adapter.vision_digest if adapter else b""


def find_device(name: str) -> torch.device:
    """The device called ``name``. Raises `CheckpointError` if this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"device {name!r} cannot be used: {reason}") from error
    return device


def build_backbone(base: Path) -> Backbone:
    """Builds the backbone of the checkpoint in ``base`` on the meta device: shapes without weights.

    Raises `CheckpointError`.
    """
    make = family_of(base).backbone_class()
    config, image = (read_json(base / name) for name in ("config.json", "preprocessor_config.json"))
    with torch.device("meta"):
        return make(config, image)
