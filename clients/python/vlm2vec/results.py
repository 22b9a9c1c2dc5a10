"""What calls return."""

from dataclasses import dataclass
from typing import Protocol

from vlm2vec.errors import SpaceChanged
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.vectors import Array, to_array


@dataclass(frozen=True)
class Timings:
    """Seconds that an input spent in each stage on the server."""

    preprocess: float
    """Decoding, resizing, tokenising."""
    queue: float
    """Waiting for the device."""
    inference: float
    """The batch on the device."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A vector and where it comes from."""

    vector: Array
    """float32 ``(dim,)``."""
    model: str
    """The model's name."""
    version: str
    """The version that made it."""
    space: str
    """The vector space: vectors of different spaces do not compare."""
    tokens: int
    """Tokens of the input, image and video tokens included."""
    timings: Timings
    """Where the time went."""


@dataclass(frozen=True)
class Ranked:
    """One candidate's place."""

    index: int
    """Its index among the candidates."""
    score: float
    """Cosine of its vector to the query's, -1 to 1."""


@dataclass(frozen=True)
class Ranking:
    """Candidates, the best first."""

    candidates: tuple[Ranked, ...]
    """The best first; of equal scores, the earlier."""
    model: str
    """The model's name."""
    version: str
    """The version that ranked them."""
    space: str
    """The vector space of that version."""


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model."""

    version: str
    """Its name."""
    space: str
    """The vector space it makes vectors in."""
    aliases: tuple[str, ...]
    """The aliases that point to it."""


@dataclass(frozen=True)
class Model:
    """A model that is served."""

    name: str
    """Its name."""
    backbone: str
    """The architecture, such as "qwen2_vl"."""
    dimension: int
    """Components of a whole vector; 0 until a worker has loaded it."""
    ready: bool
    """Whether a worker is ready for it."""
    versions: tuple[ModelVersion, ...]
    """Its versions."""


class HasSpace(Protocol):
    """What was made by one version, in one space."""

    @property
    def version(self) -> str:
        """The version."""

    @property
    def space(self) -> str:
        """The space."""


class OneSpace:
    """Sees to it that all vectors of a call are of one space."""

    def __init__(self) -> None:
        self._first: HasSpace | None = None

    def check(self, item: HasSpace) -> None:
        """Raises `SpaceChanged` if ``item`` is of another space than the first was."""
        if self._first is None:
            self._first = item
        elif item.space != self._first.space:
            raise SpaceChanged(
                f"the call has vectors of space {self._first.space!r} (version "
                f"{self._first.version!r}) and of space {item.space!r} (version "
                f"{item.version!r}), which do not compare: pin one with version= or space="
            )


def embedding(message: pb.Embedding) -> Embedding:
    """The `Embedding` in ``message``; raises `Internal` where its vector is malformed."""
    timings = message.timings
    return Embedding(
        vector=to_array(message.vector),
        model=message.model,
        version=message.version,
        space=message.space,
        tokens=message.tokens,
        timings=Timings(
            timings.preprocess_seconds, timings.queue_seconds, timings.inference_seconds
        ),
    )


def models(message: pb.ListModelsResponse) -> list[Model]:
    """The models in ``message``, by name."""
    return [
        Model(
            name=model.name,
            backbone=model.backbone,
            dimension=model.dimension,
            ready=model.ready,
            versions=tuple(
                ModelVersion(version.version, version.space, tuple(version.aliases))
                for version in model.versions
            ),
        )
        for model in message.models
    ]
