"""``vlm2vec embed``: a file of requests to a file of vectors, without a server."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click
from tqdm import tqdm

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.errors import InvalidInputError, NotFoundError, ServeError
from vlm2vec_service.offline.lines import LineReader
from vlm2vec_service.offline.outputs import open_output
from vlm2vec_service.preprocess import Prepared, Preprocessor
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

AHEAD = 64
"""Lines that are being decoded before the engine asks for them."""


@dataclass(frozen=True)
class Job:
    """The command's arguments. ``progress`` None means on a terminal only."""

    base: Path
    adapters: dict[str, Path]
    source: BinaryIO
    output: Path
    threads: int
    progress: bool | None
    engine: EngineSettings
    limits: Limits
    video: VideoSettings


@dataclass(frozen=True)
class Ready:
    """A line that can be embedded."""

    number: int
    id: str
    adapter: str | None
    prepared: Prepared


def run(job: Job) -> int:
    """Embeds every line; returns how many failed. Raises `ServeError` before the first one if
    the output, the checkpoint or an adapter is no good."""
    with open_output(job.output) as write:
        preprocessor = load_preprocessor(job.base, job.limits)
        engine = Engine.load(job.base, job.engine)
        for name, folder in job.adapters.items():
            engine.load_adapter(name, folder)
        failed = done = 0
        show = sys.stderr.isatty() if job.progress is None else job.progress
        with tqdm(unit=" inputs", disable=not show) as bar:
            for batch in _batches(_lines(job, engine, preprocessor), engine.token_budget):
                if isinstance(batch, str):
                    tqdm.write(batch, file=sys.stderr)
                    failed += 1
                    continue
                vectors = engine.embed([(line.prepared, line.adapter) for line in batch])
                write([line.id for line in batch], [line.adapter for line in batch], vectors)
                done += len(batch)
                bar.update(len(batch))
    click.echo(f"{done} embedded, {failed} failed: {job.output}", err=True)
    return failed


def _batches(lines: Iterable[Ready | str], token_budget: int) -> Iterator[list[Ready] | str]:
    """Gathers lines up to the token budget; failures go through as they come."""
    batch: list[Ready] = []
    tokens = 0
    for line in lines:
        if isinstance(line, str):
            yield line
            continue
        if batch and tokens + len(line.prepared) > token_budget:
            yield batch
            batch, tokens = [], 0
        batch.append(line)
        tokens += len(line.prepared)
    if batch:
        yield batch


def _lines(job: Job, engine: Engine, preprocessor: Preprocessor) -> Iterator[Ready | str]:
    """Every line in order, prepared ahead in threads; a string says why one cannot be."""
    name = getattr(job.source, "name", "")
    folder = Path(name).parent if isinstance(name, str) else Path()
    reader = LineReader(folder, job.limits, job.video)
    configs = {name: adapter.embedding for name, adapter in engine.adapters.items()}

    def prepare(number: int, data: bytes) -> Ready | str:
        id = ""
        try:
            line = reader.parse(data)
            id = f" ({line.id})"
            if line.adapter is not None and line.adapter not in configs:
                raise NotFoundError(
                    f"adapter: {line.adapter!r} is none of --adapter: {', '.join(configs) or 'none'}"
                )
            embedding = configs[line.adapter] if line.adapter else EmbeddingConfig()
            prepared = preprocessor.prepare(line.request, embedding)
            return Ready(number, line.id, line.adapter, prepared)
        except ServeError as error:
            return f"line {number}{id}: {error}"

    seen: dict[str, int] = {}
    numbered = ((n, data) for n, data in enumerate(job.source, 1) if data.strip())
    with ThreadPoolExecutor(job.threads) as pool:
        waiting: deque[Future[Ready | str]] = deque()
        for number, data in islice(numbered, AHEAD):
            waiting.append(pool.submit(prepare, number, data))
        while waiting:
            line = waiting.popleft().result()
            for number, data in islice(numbered, 1):
                waiting.append(pool.submit(prepare, number, data))
            if isinstance(line, Ready):
                first = seen.setdefault(line.id, line.number)
                if first != line.number:
                    error = InvalidInputError("id", f"line {first} has the same")
                    line = f"line {line.number} ({line.id}): {error}"
            yield line
