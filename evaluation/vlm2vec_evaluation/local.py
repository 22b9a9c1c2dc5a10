"""Embeds by the engine in this process, without a server."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from vlm2vec import VLM2VecError
from vlm2vec.inputs import InputLike, to_proto
from vlm2vec_evaluation.source import Embed, Key
from vlm2vec_evaluation.vector_file import Vector
from vlm2vec_registry.space import base_digest, space_of
from vlm2vec_service.backbones import backbone_name, load_preprocessor, read_embedding
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.threads import use_threads
from vlm2vec_service.errors import CheckpointError, ServeError
from vlm2vec_service.offline.ahead import Failed, Ready, embed_ahead, in_threads
from vlm2vec_service.preprocess.messages import parse_input
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

ADAPTER = "adapter"


@dataclass(frozen=True)
class LocalModel:
    """A loaded checkpoint with at most one adapter, and the space of its vectors."""

    embed: Embed
    space: str
    backbone: str


def load(
    base: Path,
    adapter: Path | None,
    engine_settings: EngineSettings,
    limits: Limits,
    video: VideoSettings,
    threads: int = 4,
) -> LocalModel:
    """Loads the checkpoint ``base`` and ``adapter``; inputs are decoded in ``threads`` threads.

    Raises `CheckpointError` and `AdapterError`.
    """
    preprocessor = load_preprocessor(base, limits)
    use_threads(engine_settings.threads)
    engine = Engine.load(base, engine_settings)
    name = ADAPTER if adapter else None
    if adapter:
        engine.load_adapter(ADAPTER, adapter)
    own = read_embedding(base)
    embedding = engine.adapters[ADAPTER].embedding if adapter else own
    try:
        space = space_of(base_digest(base), adapter, own)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{base}: {error}") from error

    def prepare(pair: tuple[Key, InputLike]) -> Ready[Key] | Failed[Key]:
        key, item = pair
        try:
            message = to_proto(item, None)
            frames = preprocessor.sampling(embedding, video.video_frames)
            request = parse_input(message, limits, frames)
            return Ready(key, preprocessor.prepare(request, embedding), name)
        except (ServeError, VLM2VecError) as error:
            return Failed(key, error)

    def embed(
        items: Iterable[tuple[Key, InputLike]],
    ) -> Iterator[tuple[Key, Vector | Exception]]:
        for batch, vectors in embed_ahead(engine, in_threads(prepare, items, threads)):
            yield from ((one.key, one.error) for one in batch.failed)
            yield from zip((one.key for one in batch.ready), vectors, strict=True)

    return LocalModel(embed, space, backbone_name(base))
