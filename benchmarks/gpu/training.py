"""A training step, and the memory that it takes by the chunk of GradCache."""

import math
import time
from collections.abc import Iterator

import torch

from benchmarks.gpu.rows import Options, Row
from benchmarks.gpu.timing import waiting
from benchmarks.models import random_backbone, workload
from vlm2vec_service.engine.engine import DTYPES
from vlm2vec_training import gradcache
from vlm2vec_training.adapter import add_adapter, checkpoint_layers
from vlm2vec_training.embedder import Embedder
from vlm2vec_training.settings import AdapterSettings, TrainSettings

QUERIES = 64
CHUNKS = (16, 64, 0)


def run(options: Options) -> Iterator[Row]:
    """Yields the time and the peak memory of a step with ``QUERIES`` queries and as many images,
    for each chunk; 0 is the whole batch at once."""
    device = torch.device(options.device)
    size = options.size or "qwen2-vl-2b"
    queries, chunks = (2, (2, 0)) if size == "tiny" else (QUERIES, CHUNKS)
    backbone = random_backbone(size, device, DTYPES[options.dtype])
    add_adapter(backbone, AdapterSettings(dropout=0.0))
    checkpoint_layers(backbone)
    embedder = Embedder(backbone, torch.bfloat16 if options.dtype == "bfloat16" else None)
    batch = gradcache.ContrastiveBatch(
        workload("query", size, queries), workload("image", size, queries), list(range(queries))
    )
    wait = waiting(device)
    yield Row("training", f"{size}, a step's inputs", 2 * queries, "inputs", "half of them images")
    for chunk in chunks:
        name = f"{size}, chunks of {chunk}" if chunk else f"{size}, the whole batch"
        try:
            for _ in range(2):  # the first warms up
                if device.type == "cuda":
                    torch.cuda.reset_peak_memory_stats(device)
                start = time.perf_counter()
                loss = gradcache.backward(embedder, batch, TrainSettings.temperature, chunk)
                wait()
                seconds = time.perf_counter() - start
                embedder.zero_grad()
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            yield Row("training", name, float("nan"), "s a step", "out of memory")
            continue
        peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0
        note = f"peak {peak / 1e9:.1f} GB, {2 * queries / seconds:.0f} inputs/s, loss {loss:.3f}"
        yield Row("training", name, seconds, "s a step", note, math.isfinite(loss))
