"""The engine at real sizes, beside ``transformers`` + PEFT and what the roofline predicts."""

import functools
import os
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch

from benchmarks.baseline import Padded
from benchmarks.charge import H100, Card
from benchmarks.engine import fastest
from benchmarks.flops import batch_flops, matmul_rate
from benchmarks.gpu.profile import profile
from benchmarks.gpu.rows import Options, Row
from benchmarks.gpu.timing import memory_rate, seconds_of
from benchmarks.models import SIZES, batch_of, random_backbone, write_dora
from benchmarks.roofline import RANK, predict
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.engine import DTYPES, Engine
from vlm2vec_service.engine.packing import Item, batches
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

TOKENS = {"text": 16_384, "image": 16_384, "mixed": 16_384, "query": 1000}
"""The workloads and the tokens of their batch."""
ADAPTERS = {"qwen2-vl-2b": 8, "phi-3.5-v": 4}
"""Adapters whose merged copies fit beside the base and its baseline on 80 GB."""
BATCH_SIZES = (8, 32, 128)
IN_ROW = 4
"""Batches of ours in a row, as a busy worker runs them: their time is that of one of them."""
AGREE = 0.98
"""Cosine of our vectors and the baseline's, both in bfloat16 through random layers."""


@dataclass(frozen=True)
class Variant:
    """How many adapters a batch has, and how they run."""

    adapters: int
    path: str

    def __str__(self) -> str:
        count = {0: "no adapter", 1: "one DoRA"}.get(self.adapters, f"{self.adapters} DoRA")
        return f"{count} {self.path}".strip()


def run(options: Options) -> Iterator[Row]:
    """Yields the rate of each size, workload and variant."""
    device = torch.device(options.device)
    rate = matmul_rate(device, DTYPES[options.dtype])
    yield Row("engine", "matrix products", rate / 1e12, "TFLOP/s")
    known = device.type == "cuda" and "H100" in torch.cuda.get_device_name(device)
    card = H100 if known else Card(rate, memory_rate(device))
    sizes = [options.size] if options.size else list(ADAPTERS)
    workers = max(1, (os.cpu_count() or 1) // 2)
    # Predictions take as long as Python does, and no GPU: they run beside, from the start.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        measured = [Measured(size, options, rate, card, pool) for size in sizes]
        for each in measured:
            yield from each.rows()


class Measured:
    """The measurements of one size; ``rows`` makes them, and the predictions start at once."""

    def __init__(
        self, size: str, options: Options, rate: float, card: Card, pool: ProcessPoolExecutor
    ) -> None:
        self.size = size
        self.output = Path(options.output)
        self.device = torch.device(options.device)
        self.dtype = DTYPES[options.dtype]
        self.rate = rate
        # At this size nothing is measured: it is to see that all of it runs.
        tiny = size == "tiny"
        # For time: the mixed workload is between the two that it is made of.
        names = [name for name in TOKENS if size != "phi-3.5-v" or name != "mixed"]
        self.tokens = {name: 200 if tiny else TOKENS[name] for name in names}
        self.rounds, self.in_row = (1, 1) if tiny else (10, IN_ROW)
        self.batch_sizes = (4,) if tiny else BATCH_SIZES
        self.most = ADAPTERS.get(size, 2)
        self.variants = {"base": [Variant(0, "")]} | {
            path: [Variant(1, path), Variant(self.most, path)] for path in ("low-rank", "merged")
        }
        self.predicted: dict[tuple[str, Variant], Future[float]] = {
            (workload, variant): pool.submit(
                predicted, size, workload, self.tokens[workload], variant, card
            )
            for variants in self.variants.values()
            for variant in variants
            for workload in self.tokens
        }

    def rows(self) -> Iterator[Row]:
        """Measures the baseline, then ours: without adapters, low-rank, and merged."""
        inputs = {name: batch_of(name, self.size, count) for name, count in self.tokens.items()}
        backbone = random_backbone(self.size, self.device, self.dtype)
        with tempfile.TemporaryDirectory() as scratch:
            folders = [Path(scratch) / str(index) for index in range(self.most)]
            for seed, folder in enumerate(folders):
                write_dora(folder, backbone, RANK, seed)
            theirs: dict[str, float] = {}
            vectors: dict[str, torch.Tensor] = {}
            for row, workload, seconds, found in self._baseline(backbone, inputs, folders[0]):
                theirs[workload], vectors[workload] = seconds, found
                yield row
            settings = EngineSettings(device=str(self.device), vision_cache_bytes=0, merged_bytes=0)
            engine = Engine(backbone, settings)
            for folder in folders:
                engine.load_adapter(folder.name, folder)
        for path, variants in self.variants.items():
            if path == "merged":
                for index in range(self.most):
                    engine.merged.merge(str(index))
            for workload, items in inputs.items():
                for variant in variants:
                    yield self._ours(engine, workload, items, variant, theirs.get(workload))
                if path == "base" and workload != "mixed":
                    yield self._profile(engine, workload, items)
        yield from self._agreement(engine, inputs, vectors)

    def _baseline(
        self, backbone: Backbone, inputs: dict[str, list[Prepared]], adapter: Path
    ) -> Iterator[tuple[Row, str, float, torch.Tensor]]:
        """Measures ``transformers`` + PEFT, merged, at its best batch size, sorted and not."""
        padded = Padded(backbone, SIZES[self.size], adapter)
        for workload, items in inputs.items():
            if self.size == "phi-3.5-v" and any(item.media for item in items):
                continue
            best = fastest(functools.partial(padded.embed, items), self.batch_sizes)
            seconds, sorted_seconds = (
                seconds_of(functools.partial(padded.embed, order, best), self.device, self.rounds)
                for order in (items, sorted(items, key=len))
            )
            note = f"batches of {best}; sorted by length {len(items) / sorted_seconds:.1f}"
            name = f"{self.size} {workload}, transformers + PEFT merged"
            row = Row("engine", name, len(items) / seconds, "inputs/s", note)
            yield row, workload, seconds, padded.embed(items, best)

    def _ours(
        self,
        engine: Engine,
        workload: str,
        inputs: Sequence[Prepared],
        variant: Variant,
        theirs: float | None,
    ) -> Row:
        items = [
            Item(item, engine.adapter(str(index % variant.adapters)) if variant.adapters else None)
            for index, item in enumerate(inputs)
        ]
        batches_in_row = functools.partial(embed, engine, items, self.in_row)
        seconds = seconds_of(batches_in_row, self.device, self.rounds) / self.in_row
        reached = batch_flops(engine.backbone, inputs) / seconds / self.rate
        predicted = self.predicted[workload, variant].result()
        notes = [
            f"{seconds * 1e3:.1f} ms",
            f"{reached:.2f} of the product rate",
            f"{predicted / seconds:.2f} of the predicted",
        ]
        if theirs is not None:
            notes.append(f"{theirs / seconds:.2f} times theirs")
        name = f"{self.size} {workload}, {variant}"
        return Row("engine", name, len(inputs) / seconds, "inputs/s", ", ".join(notes))

    def _profile(self, engine: Engine, workload: str, inputs: Sequence[Prepared]) -> Row:
        items = [Item(item, None) for item in inputs]
        file = self.output / f"profile-{self.size}-{workload}.txt"
        busy = profile(lambda: embed(engine, items), self.device, file)
        name = f"{self.size} {workload}, no adapter, kernels"
        return Row("engine", name, busy * 1e3, "ms", f"time in kernels; {file.name}")

    def _agreement(
        self, engine: Engine, inputs: dict[str, list[Prepared]], theirs: dict[str, torch.Tensor]
    ) -> Iterator[Row]:
        for workload, expected in theirs.items():
            adapter = engine.adapter("0")
            found = embed(engine, [Item(item, adapter) for item in inputs[workload]])
            cosine = float((found * expected.numpy()).sum(1).min())
            name = f"{self.size} {workload}, ours beside theirs"
            yield Row("engine", name, cosine, "cosine", f"above {AGREE}", cosine > AGREE)


def embed(
    engine: Engine, items: Sequence[Item], rounds: int = 1
) -> np.ndarray[tuple[int, int], np.dtype]:
    """Embeds ``items`` and merges nothing meanwhile: float32 ``(len(items), dim)``, in order.

    It does so ``rounds`` times, each batch launched before the last is waited for.
    """
    vectors = np.empty((len(items), engine.dim), np.float32)
    cut = batches(items, engine.token_budget) * rounds
    runs = engine.run_each([items[index] for index in indices] for indices in cut)
    for indices, found in zip(cut, runs, strict=True):
        vectors[indices] = found
    return vectors


def predicted(size: str, workload: str, tokens: int, variant: Variant, card: Card) -> float:
    """Predicts the seconds of a batch, in a process of its own."""
    torch.set_num_threads(1)
    inputs = batch_of(workload, size, tokens)
    return predict(size, inputs, variant.adapters, variant.path, card).seconds
