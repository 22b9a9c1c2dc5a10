"""From a checkpoint on disk to the first vectors, kernels compiled anew."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from benchmarks.gpu.rows import Options, Row
from benchmarks.models import random_backbone, workload, write_checkpoint, write_dora
from vlm2vec_service.engine.engine import DTYPES


def run(options: Options) -> Iterator[Row]:
    """Yields the time of each step of a start, with an empty and with a filled cache of kernels."""
    size = options.size or "qwen2-vl-2b"
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        backbone = random_backbone(size, torch.device(options.device), DTYPES[options.dtype])
        write_dora(folder / "adapter", backbone, 16, 0)
        write_checkpoint(folder / "base", size, backbone)
        del backbone
        if options.device == "cuda":
            torch.cuda.empty_cache()
        for cache in ("empty", "filled"):
            code = (
                "from benchmarks.gpu.startup import start; "
                f"start({size!r}, {str(folder)!r}, {options.device!r}, {options.dtype!r}, "
                f"{time.time()!r})"
            )
            environment = {**os.environ, "TRITON_CACHE_DIR": str(folder / "kernels")}
            lines = subprocess.run(
                [sys.executable, "-c", code],
                env=environment, stdout=subprocess.PIPE, text=True, check=True,
            ).stdout.splitlines()  # fmt: skip
            for line in lines:
                step, _, seconds = line.rpartition(": ")
                note = f"{cache} cache of kernels"
                yield Row("startup", f"{size}, {step}", float(seconds), "s", note)


def start(size: str, folder: str, device: str, dtype: str, began: float) -> None:
    """Loads what `run` wrote, and prints how long each step took."""

    def step(name: str) -> None:
        nonlocal began
        now = time.time()
        print(f"{name}: {now - began}", flush=True)
        began = now

    from vlm2vec_service.engine import Engine
    from vlm2vec_service.settings import EngineSettings

    step("imports")
    settings = EngineSettings(device=device, dtype=dtype, vision_cache_bytes=0)
    engine = Engine.load(Path(folder) / "base", settings)
    step("base loaded")
    engine.load_adapter("adapter", Path(folder) / "adapter")
    step("adapter loaded")
    inputs = workload("mixed", size, 4)
    pairs = [(item, "adapter") for item in inputs]
    step("inputs made")
    engine.embed(pairs)
    step("first vectors")
    engine.embed(pairs)
    step("second vectors")
