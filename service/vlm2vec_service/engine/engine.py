"""The engine, which turns prepared inputs into vectors, each with its own adapter."""

import collections
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from vlm2vec_service.backbones.table import building, family_of, read_embedding, read_json
from vlm2vec_service.engine.adapter import Adapter, Compute, load_adapter, without_pause
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.checkpoint import load_weights
from vlm2vec_service.engine.decoder import Decoder
from vlm2vec_service.engine.feature_cache import FeatureCache
from vlm2vec_service.engine.graphs import DecoderGraphs
from vlm2vec_service.engine.linear import install, products_of
from vlm2vec_service.engine.media import MediaEncoder, feature_key
from vlm2vec_service.engine.memory import merged_budget
from vlm2vec_service.engine.merged import MergedCopies
from vlm2vec_service.engine.packing import Item, PackedBatch, batches, pack
from vlm2vec_service.engine.stage import Rows, Stage
from vlm2vec_service.engine.tower import Tower
from vlm2vec_service.errors import AdapterError, CheckpointError, NotFoundError
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Launched:
    """A batch that may still run: ``order[i]`` is the place of the row ``i`` of ``rows``, float32
    ``(inputs, dim)`` on the device."""

    order: Sequence[int]
    rows: Tensor

    def vectors(self) -> npt.NDArray[np.float32]:
        """Waits for the vectors, float32 ``(inputs, dim)``, in the order of the inputs."""
        vectors = np.empty(self.rows.shape, np.float32)
        vectors[self.order] = self.rows.cpu().numpy()
        return vectors


class Engine:
    """A backbone on a device and the adapters loaded beside it.

    ``embed`` and ``run`` run one batch at a time, in whichever thread calls them. Meanwhile other
    threads may load and unload adapters, which does not stop the batches. ``path_tokens`` counts
    the tokens of all batches, by the path that they took: ``base``, ``low_rank`` or ``merged``.
    """

    def __init__(self, backbone: Backbone, settings: EngineSettings) -> None:
        self.device = next(backbone.parameters()).device
        # Larger batches would not fit into a CPU's caches, smaller ones leave a GPU's cores idle.
        on_cpu = self.device.type == "cpu"
        self.token_budget = settings.token_budget or (2048 if on_cpu else 16_384)
        vision_batch_patches = settings.vision_batch_patches or (2048 if on_cpu else 65_536)
        self.rows = Rows(Stage())
        self.linears = install(backbone, self.rows)
        self.products = products_of(self.linears)
        self.backbone = backbone.eval()
        self.decoder = Decoder(backbone.model, self.rows)
        # In float32 a GPU attends sequence by sequence, which no graph of any batch can hold.
        fit = self.device.type == "cuda" and self.products[0].weight.dtype != torch.float32
        self.graphs = (
            DecoderGraphs(backbone, self.decoder) if fit and settings.cuda_graphs else None
        )
        runs = [Tower(backbone, names).run for names in backbone.towers]
        self.cache = FeatureCache(settings.vision_cache_bytes)
        self.merged = MergedCopies(
            self.products,
            merged_budget(self.device) if settings.merged_bytes < 0 else settings.merged_bytes,
            # For fewer rows it takes longer to read another weight than to add low ranks.
            least_rows=64 if on_cpu else 256,
            # Merging takes as long as what is saved on about so many tokens.
            least_tokens=4096 if on_cpu else 16_384,
        )
        self.media = MediaEncoder(
            backbone, runs, self.rows, self.cache, vision_batch_patches, self.merged.choose
        )
        self.path_tokens: collections.Counter[str] = collections.Counter()
        self.normalize = True
        """Whether the base's own vectors get length 1, where nobody says otherwise."""
        self._adapters: dict[str, Adapter] = {}
        self._running = threading.Lock()

    @classmethod
    def load(cls, base: Path, settings: EngineSettings | None = None) -> "Engine":
        """Loads the checkpoint folder ``base`` onto the device that ``settings`` name.

        Raises `CheckpointError` if the folder, the device or the dtype cannot be used.
        """
        settings = settings or EngineSettings()
        if settings.dtype not in DTYPES:
            raise CheckpointError(f"dtype {settings.dtype!r} is not one of {', '.join(DTYPES)}")
        backbone = build_backbone(base)
        device = find_device(settings.device)
        load_weights(backbone, base, backbone.rename, device, DTYPES[settings.dtype])
        engine = cls(backbone, settings)
        engine.normalize = read_embedding(base).normalize
        return engine

    @property
    def adapters(self) -> dict[str, Adapter]:
        """Copies the table of the loaded adapters, by name, as it is now."""
        return dict(self._adapters)

    def load_adapter(self, name: str, folder: Path, compute: Compute = without_pause) -> Adapter:
        """Loads the PEFT folder ``folder`` beside running batches, and then calls it ``name``.

        A batch that started before finishes with the adapter that had the name then. ``compute``
        runs the steps of loading that need the device. Raises `AdapterError` if the folder does
        not fit the backbone.
        """
        if not folder.is_dir():
            raise AdapterError(f"{folder}: no such folder")
        adapter = load_adapter(name, folder, self.backbone, self.linears, compute)
        # Assigning one key is atomic: a batch sees the old adapter or the new, never a part.
        self._adapters[name] = adapter
        self.merged.add(adapter)
        return adapter

    def unload_adapter(self, name: str) -> None:
        """Forgets the adapter ``name``. Its memory is free when the batches with it are done.

        Raises `NotFoundError`.
        """
        if self._adapters.pop(name, None) is None:
            raise NotFoundError(f"adapter {name!r} is not loaded")
        self.merged.drop(name)

    def adapter(self, name: str) -> Adapter:
        """Returns the adapter loaded as ``name``. Raises `NotFoundError`."""
        adapter = self._adapters.get(name)
        if adapter is None:
            loaded = ", ".join(sorted(self._adapters)) or "none"
            raise NotFoundError(f"adapter {name!r} is not loaded; loaded: {loaded}")
        return adapter

    def embed(
        self, inputs: Sequence[tuple[Prepared, str | None]], normalize: bool | None = None
    ) -> npt.NDArray[np.float32]:
        """Embeds ``inputs``, each with the adapter it names, of which None is the base model.

        ``normalize`` None does as the ``embedding.json`` of each adapter, or the base, says, which
        is to normalise unless it says otherwise. Batches hold at most ``token_budget`` tokens and
        mix adapters freely; what else is in a batch does not change a vector by more than rounding.
        Adapters that get busy are merged between two batches. Returns float32
        ``(len(inputs), dim)``, in order. Raises `NotFoundError` for an unknown adapter.
        """
        items = [self._item(prepared, name, normalize) for prepared, name in inputs]
        vectors = np.empty((len(items), self.dim), np.float32)
        cut = batches(items, self.token_budget)
        for indices, found in zip(
            cut, self.run_each([items[i] for i in indices] for indices in cut), strict=True
        ):
            vectors[indices] = found
        return vectors

    def embed_each(
        self, batches: Iterable[Sequence[tuple[Prepared, str | None]]]
    ) -> Iterator[npt.NDArray[np.float32]]:
        """Embeds ``batches`` as they are, whatever their size; yields the vectors of each, as
        `embed` returns them."""
        return self.run_each([self._item(*one, None) for one in batch] for batch in batches)

    def _item(self, prepared: Prepared, name: str | None, normalize: bool | None) -> Item:
        if name is None:
            return Item(prepared, None, self.normalize if normalize is None else normalize)
        return Item(prepared, self.adapter(name), normalize)

    def run_each(self, batches: Iterable[Sequence[Item]]) -> Iterator[npt.NDArray[np.float32]]:
        """Runs ``batches`` as they are, and merges between them; yields the vectors of each.

        A GPU has the next batch before the last is waited for.
        """
        waiting = None
        for items in batches:
            launched = self.launch(self.pack(items))
            if waiting is not None:
                yield waiting.vectors()
            waiting = launched
            while self.merge_step():
                pass
        if waiting is not None:
            yield waiting.vectors()

    def merge_step(self) -> bool:
        """Does a moment's work on the merged copy of the adapter that is worth it most, if one is.
        Says whether it did."""
        with self._running:
            return self.merged.step()

    @property
    def dim(self) -> int:
        """Counts the dimensions of a vector."""
        return int(self.backbone.model.embed_tokens.embedding_dim)

    def run(self, items: Sequence[Item]) -> npt.NDArray[np.float32]:
        """Embeds ``items`` as one batch, however long: float32 ``(len(items), dim)``, in order."""
        return self.launch(self.pack(items)).vectors()

    def pack(self, items: Sequence[Item]) -> PackedBatch:
        """Makes a batch of ``items``, in any thread, also while another batch runs."""
        return pack(items, self.device, self.merged.choose)

    @torch.inference_mode()
    def launch(self, batch: PackedBatch) -> "Launched":
        """Runs ``batch`` on a CPU, and on a GPU starts it: it runs behind what was started
        before."""
        with self._running:
            try:
                vectors = self.graphs.run(batch, self._entering) if self.graphs else None
                if vectors is None:
                    vectors = self._vectors(batch)
            finally:
                # The batch's would keep adapters and copies that leave until the next batch comes,
                # also when it failed for want of the memory that a copy takes.
                self.rows.stage = Stage()
        self.merged.count(batch.shares)
        for share in batch.shares:
            self.path_tokens[share.path] += share.tokens
        return Launched(batch.order, vectors)

    def _vectors(self, batch: PackedBatch) -> Tensor:
        """Computes the vectors of ``batch``, float32 ``(inputs, dim)``, without a graph."""
        entering = self._entering(batch)
        rotary = self.backbone.rotary(batch.positions, batch.lengths)
        self.rows.stage = batch.token_stage
        states = self.decoder.run(
            entering, rotary, batch.segments, batch.pooled, batch.pooled_stage
        )
        return batch.finish(batch.pool(states.float()))

    def _entering(self, batch: PackedBatch) -> Tensor:
        """Computes what enters the language model, as `Backbone.entering` gives it: the embeddings
        of the tokens, with the features of media in their places."""
        features = self.media.features(batch.items)
        found = [
            features[feature_key(media, item.adapter)]
            for item in batch.items
            for media in item.prepared.media
        ]
        hidden = self.backbone.embed_tokens(batch.token_ids)
        return self.backbone.entering(hidden, batch.media_rows, torch.cat(found) if found else None)


def find_device(name: str) -> torch.device:
    """Finds the device called ``name``. Raises `CheckpointError` if this machine has none."""
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts
        reason = str(error).splitlines()[0]
        raise CheckpointError(f"device {name!r} cannot be used: {reason}") from error
    return device


def build_backbone(base: Path) -> Backbone:
    """Builds the backbone of the checkpoint in ``base`` on the meta device, without weights.

    Raises `CheckpointError` if a file is missing, lacks a key or is of no known family.
    """
    make = family_of(base).backbone_class()
    config, image = (read_json(base / name) for name in ("config.json", "preprocessor_config.json"))
    with building(base), torch.device("meta"):
        return make(config, image)
