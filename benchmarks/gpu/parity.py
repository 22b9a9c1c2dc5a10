"""The golden vectors of the model authors' own code, on the device and by every path."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu.rows import Options, Row
from tests.conftest import ARCHITECTURES, DATA, adapter_folder
from tests.parity.make_checkpoints import write_all
from tests.parity.test_parity import cosines, prepared_cases
from vlm2vec_service.engine import Engine
from vlm2vec_service.settings import EngineSettings

LIMITS = {"float32": 0.9999, "bfloat16": 0.995}
STABLE = 0.9996
"""Cosine of a case whose base weights alone were rounded to bfloat16, from which on it can be
judged: the DoRA adapters add five times the weights' norm, and some cases leave by rounding."""


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
            rounded = _engine(Path(scratch), architecture, "float32", "cpu")
            for parameter in rounded.backbone.parameters():
                parameter.data = parameter.data.bfloat16().float()
            _load(rounded, architecture)
            dora = rounded.embed([(item, "dora") for item in prepared])
            beside = cosines(dora, golden, architecture, ("dora",))
            for dtype, limit in LIMITS.items():
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
                    found = cosines(engine.embed(pairs), golden, architecture, (adapter,))
                    if adapter == "dora" and dtype == "bfloat16":
                        found = {key: found[key] for key in found if beside[key] > STABLE}
                    lowest = min(found.values())
                    name = f"{architecture} {dtype} {adapter or 'no adapter'} {path}"
                    note = f"above {limit}, {len(found)} inputs"
                    yield Row("parity", name, lowest, "cosine", note, lowest > limit)


def _engine(checkpoints: Path, architecture: str, dtype: str, device: str) -> Engine:
    settings = EngineSettings(
        device=device, dtype=dtype, token_budget=100_000, vision_cache_bytes=0, merged_bytes=0
    )
    return Engine.load(checkpoints / architecture, settings)


def _load(engine: Engine, architecture: str) -> None:
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder(architecture, name))
