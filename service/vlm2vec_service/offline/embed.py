"""The command ``vlm2vec embed``: from a file of requests to a file of vectors, without a server."""

import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import BinaryIO

import click
from tqdm import tqdm

from vlm2vec_service.backbones import load_preprocessor, read_embedding
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.threads import use_threads
from vlm2vec_service.errors import InvalidInputError, NotFoundError, ServeError
from vlm2vec_service.offline.lines import LineReader
from vlm2vec_service.offline.outputs import open_output
from vlm2vec_service.preprocess import Prepared, Preprocessor
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

AHEAD = 64
"""How many lines are decoded before the engine asks for them."""


@dataclass(frozen=True)
class EmbedArguments:
    """The arguments of ``vlm2vec embed``.

    ``base`` and ``adapters`` are folders, ``source`` has the lines; ``progress`` shows a bar;
    ``truncate`` is that of each `Request`, ``unnamed`` the adapter of lines that name none, where
    that is not the base.
    """

    base: Path
    adapters: dict[str, Path]
    source: BinaryIO
    output: Path
    threads: int
    progress: bool
    truncate: int | None
    engine: EngineSettings
    limits: Limits
    video: VideoSettings
    unnamed: str | None = None


@dataclass(frozen=True)
class PreparedLine:
    """A line that is ready for the engine, with its number in the file, from 1."""

    number: int
    id: str
    adapter: str | None
    prepared: Prepared


def run(arguments: EmbedArguments) -> int:
    """Embeds every line; returns how many failed.

    Raises `ServeError` before the first one if the output, the checkpoint or an adapter is no good.
    """
    with open_output(arguments.output) as write:
        preprocessor = load_preprocessor(arguments.base, arguments.limits)
        use_threads(arguments.engine.threads)
        engine = Engine.load(arguments.base, arguments.engine)
        for name, folder in arguments.adapters.items():
            engine.load_adapter(name, folder)
        failed = done = truncated = 0
        with tqdm(unit=" inputs", disable=not arguments.progress) as bar:
            for batch in _batches(_lines(arguments, engine, preprocessor), engine.token_budget):
                if isinstance(batch, str):
                    tqdm.write(batch, file=sys.stderr)
                    failed += 1
                    continue
                vectors = engine.embed([(line.prepared, line.adapter) for line in batch])
                write([line.id for line in batch], [line.adapter for line in batch], vectors)
                done += len(batch)
                truncated += sum(line.prepared.truncated for line in batch)
                bar.update(len(batch))
    cut = f" ({truncated} of them truncated)" if truncated else ""
    click.echo(f"{done} embedded{cut}, {failed} failed: {arguments.output}", err=True)
    return failed


def _batches(
    lines: Iterable[PreparedLine | str], token_budget: int
) -> Iterator[list[PreparedLine] | str]:
    """Gathers lines up to the token budget; failures go through as they come."""
    batch: list[PreparedLine] = []
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


def _lines(
    arguments: EmbedArguments, engine: Engine, preprocessor: Preprocessor
) -> Iterator[PreparedLine | str]:
    """Every line in order, prepared ahead in threads; a string says why one cannot be."""
    name = getattr(arguments.source, "name", "")
    folder = Path(name).parent if isinstance(name, str) else Path()
    configs = {name: adapter.embedding for name, adapter in engine.adapters.items()}
    own = read_embedding(arguments.base)

    def sampling(adapter: str | None) -> Sampling:
        embedding = configs.get(adapter or arguments.unnamed or "", own)
        return preprocessor.sampling(embedding, arguments.video.video_frames)

    reader = LineReader(folder, arguments.limits, sampling)

    def prepare(number: int, data: bytes) -> PreparedLine | str:
        id = ""
        try:
            line = reader.parse(data)
            id = f" ({line.id})"
            if line.adapter is not None and line.adapter not in configs:
                known = ", ".join(configs) or "none"
                raise NotFoundError(f"adapter: {line.adapter!r} is none of --adapter: {known}")
            adapter = arguments.unnamed if line.adapter is None else line.adapter
            embedding = own if adapter is None else configs[adapter]
            request = replace(line.request, truncate=arguments.truncate)
            prepared = preprocessor.prepare(request, embedding)
            return PreparedLine(number, line.id, adapter, prepared)
        except ServeError as error:
            return f"line {number}{id}: {error}"

    seen: dict[str, int] = {}
    numbered = ((n, data) for n, data in enumerate(arguments.source, 1) if data.strip())
    with ThreadPoolExecutor(arguments.threads) as pool:
        waiting: deque[Future[PreparedLine | str]] = deque()
        for number, data in islice(numbered, AHEAD):
            waiting.append(pool.submit(prepare, number, data))
        while waiting:
            line = waiting.popleft().result()
            for number, data in islice(numbered, 1):
                waiting.append(pool.submit(prepare, number, data))
            if isinstance(line, PreparedLine):
                first = seen.setdefault(line.id, line.number)
                if first != line.number:
                    error = InvalidInputError("id", f"line {first} has the same")
                    line = f"line {line.number} ({line.id}): {error}"
            yield line
