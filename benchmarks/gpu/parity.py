"""The golden vectors of the model authors' own code, on the device and by every path."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu.rows import Options, Row
from tests.conftest import ARCHITECTURES, CASES, DATA, adapter_folder
from tests.parity.make_checkpoints import write_all
from tests.parity.test_parity import prepared_cases
from vlm2vec_service.engine import Engine
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

LIMITS = {"float32": 0.9999, "bfloat16": 0.995}
STABLE = 0.9996
"""Cosine of a case whose base weights alone were rounded to bfloat16, from which on it can be
judged: the DoRA adapters add five times the weights' norm, and some cases leave by rounding."""
FEW = 5
"""The cases at the smallest size: texts, and a picture behind them."""


def run(options: Options) -> Iterator[Row]:
    """Yields the lowest cosine of each backbone, dtype, adapter and path."""
    # The module of the tests takes one thread, since many of them run side by side.
    torch.set_num_threads(os.cpu_count() or 1)
    with np.load(DATA / "golden.npz") as file:
        golden = dict(file)
    with tempfile.TemporaryDirectory() as scratch:
        write_all(Path(scratch))
        for architecture in ARCHITECTURES:
            prepared = prepared_cases(Path(scratch), architecture)
            if options.size == "tiny":
                del prepared[FEW:]
            beside = {}
            if options.dtype == "bfloat16":
                beside = _rounded(Path(scratch), architecture, prepared, golden)
            for dtype in dict.fromkeys(("float32", options.dtype)):
                limit = LIMITS[dtype]
                engine = _engine(Path(scratch), architecture, dtype, options.device)
                _load(engine, architecture)
                for adapter, path in (
                    (None, "base"),
                    ("lora", "low-rank"), ("dora", "low-rank"),
                    ("lora", "merged"), ("dora", "merged"),
                ):  # fmt: skip
                    if adapter is not None and path == "merged":
                        engine.merged.merge(adapter)
                    pairs = [(item, adapter) for item in prepared]
                    vectors = [engine.embed(pairs)]
                    if engine.graphs is not None:
                        # A small batch is recorded the second time, and replayed from then on.
                        vectors += [
                            np.concatenate([engine.embed([pair]) for pair in pairs])
                            for _ in range(3)
                        ]
                    each = [_cosines(some, golden, architecture, adapter) for some in vectors]
                    found = {key: min(cosine[key] for cosine in each) for key in each[0]}
                    if adapter == "dora" and dtype == "bfloat16":
                        found = {key: found[key] for key in found if beside[key] > STABLE}
                    lowest = min(found.values())
                    name = f"{architecture} {dtype} {adapter or 'no adapter'} {path}"
                    note = f"above {limit}, {len(found)} inputs"
                    yield Row("parity", name, lowest, "cosine", note, lowest > limit)


def _rounded(
    checkpoints: Path, architecture: str, prepared: list[Prepared], golden: dict[str, Any]
) -> dict[str, float]:
    """Computes the cosines with DoRA in float32, of base weights that are rounded to bfloat16."""
    engine = _engine(checkpoints, architecture, "float32", "cpu")
    for parameter in engine.backbone.parameters():
        parameter.data = parameter.data.bfloat16().float()
    _load(engine, architecture)
    vectors = engine.embed([(item, "dora") for item in prepared])
    return _cosines(vectors, golden, architecture, "dora")


def _cosines(
    vectors: npt.NDArray[np.float32], golden: dict[str, Any], architecture: str, adapter: str | None
) -> dict[str, float]:
    """Compares ``vectors``, of the first cases in their order, with the golden ones."""
    cases = CASES[architecture][: len(vectors)]
    keys = [f"{architecture}/{adapter or 'base'}/{case['id']}" for case in cases]
    return {key: float(vector @ golden[key]) for key, vector in zip(keys, vectors, strict=True)}


def _engine(checkpoints: Path, architecture: str, dtype: str, device: str) -> Engine:
    settings = EngineSettings(
        device=device, dtype=dtype, token_budget=100_000, vision_cache_bytes=0, merged_bytes=0
    )
    return Engine.load(checkpoints / architecture, settings)


def _load(engine: Engine, architecture: str) -> None:
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder(architecture, name))
