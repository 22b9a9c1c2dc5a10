"""The command ``vlm2vec embed``: from a file of requests to a file of vectors, without a server."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, NamedTuple

import click
from tqdm import tqdm

from vlm2vec_service.backbones import load_preprocessor, read_embedding
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.threads import use_threads
from vlm2vec_service.errors import InvalidInputError, NotFoundError, ServeError
from vlm2vec_service.offline.ahead import Failed, Ready, embed_ahead, in_threads
from vlm2vec_service.offline.lines import LineReader
from vlm2vec_service.offline.outputs import open_output
from vlm2vec_service.preprocess import Preprocessor
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings


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


class LineKey(NamedTuple):
    """A line's number in the file, from 1, and its id, which is empty until it is known."""

    number: int
    id: str = ""

    def __str__(self) -> str:
        return f"{self.number} ({self.id})" if self.id else str(self.number)


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
            for batch, vectors in embed_ahead(engine, _lines(arguments, engine, preprocessor)):
                for line in batch.failed:
                    tqdm.write(f"line {line.key}: {line.error}", file=sys.stderr)
                write(
                    [line.key.id for line in batch.ready],
                    [line.adapter for line in batch.ready],
                    vectors,
                )
                done += len(vectors)
                failed += len(batch.failed)
                truncated += sum(line.prepared.truncated for line in batch.ready)
                bar.update(len(vectors))
    cut = f" ({truncated} of them truncated)" if truncated else ""
    click.echo(f"{done} embedded{cut}, {failed} failed: {arguments.output}", err=True)
    return failed


def _lines(
    arguments: EmbedArguments, engine: Engine, preprocessor: Preprocessor
) -> Iterator[Ready[LineKey] | Failed[LineKey]]:
    """Every line in order, prepared ahead in threads."""
    name = getattr(arguments.source, "name", "")
    folder = Path(name).parent if isinstance(name, str) else Path()
    configs = {name: adapter.embedding for name, adapter in engine.adapters.items()}
    own = read_embedding(arguments.base)

    def sampling(adapter: str | None) -> Sampling:
        embedding = configs.get(adapter or arguments.unnamed or "", own)
        return preprocessor.sampling(embedding, arguments.video.video_frames)

    reader = LineReader(folder, arguments.limits, sampling)

    def prepare(numbered: tuple[int, bytes]) -> Ready[LineKey] | Failed[LineKey]:
        number, data = numbered
        key = LineKey(number)
        try:
            line = reader.parse(data)
            key = LineKey(number, line.id)
            if line.adapter is not None and line.adapter not in configs:
                known = ", ".join(configs) or "none"
                raise NotFoundError(f"adapter: {line.adapter!r} is none of --adapter: {known}")
            adapter = arguments.unnamed if line.adapter is None else line.adapter
            embedding = own if adapter is None else configs[adapter]
            request = replace(line.request, truncate=arguments.truncate)
            return Ready(key, preprocessor.prepare(request, embedding), adapter)
        except ServeError as error:
            return Failed(key, error)

    seen: dict[str, int] = {}
    numbered = ((n, data) for n, data in enumerate(arguments.source, 1) if data.strip())
    for line in in_threads(prepare, numbered, arguments.threads):
        number, id = line.key
        if isinstance(line, Ready) and (first := seen.setdefault(id, number)) != number:
            yield Failed(line.key, InvalidInputError("id", f"line {first} has the same"))
        else:
            yield line
