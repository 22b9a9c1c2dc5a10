"""The objects that calls return, and how they are read from messages."""

from dataclasses import dataclass, field
from typing import Protocol

from vlm2vec.display import ranking_html, summary
from vlm2vec.errors import SpaceChanged
from vlm2vec.inputs import InputLike
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.vectors import Array, to_array


@dataclass(frozen=True)
class Timings:
    """Seconds that an input spent in each stage on the server."""

    preprocess: float
    """Seconds to decode, resize and tokenise the input."""
    queue: float
    """Seconds that it waited for the device."""
    inference: float
    """Seconds that its batch took on the device."""


@dataclass(frozen=True, eq=False)
class Embedding:
    """A vector, and where it comes from."""

    vector: Array
    """The vector, float32 ``(dim,)``."""
    model: str
    """The model's name."""
    version: str
    """The version that made the vector."""
    space: str
    """The vector space: vectors of different spaces do not compare."""
    tokens: int
    """Tokens of the input, those of its media included."""
    truncated: bool
    """Whether the end of its text was left out, as ``truncate`` or the adapter wants it."""
    timings: Timings
    """The time that the input spent in each stage on the server."""

    def __repr__(self) -> str:
        return (
            f"Embedding(vector=<float32 {self.vector.shape}>, model={self.model!r}, "
            f"version={self.version!r}, space={self.space!r}, tokens={self.tokens})"
        )


@dataclass(frozen=True)
class Ranked:
    """One candidate of a `Ranking`, with its score."""

    index: int
    """The candidate's index among those that were given."""
    score: float
    """Cosine of its vector to the query's, -1 to 1."""
    truncated: bool
    """Whether the end of its text was left out."""
    candidate: InputLike = field(compare=False)
    """The candidate itself, as it was given."""

    def __repr__(self) -> str:
        what = summary(self.candidate)
        return f"Ranked(index={self.index}, score={self.score:.4f}, candidate=<{what}>)"


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order in which they match a query, and who says so.

    It shows itself as a table in a notebook, with the pictures.
    """

    candidates: tuple[Ranked, ...]
    """The candidates, the best first; of equal scores, the one that was given earlier."""
    model: str
    """The model's name."""
    version: str
    """The version that ranked them."""
    space: str
    """The vector space of that version."""
    query_truncated: bool
    """Whether the end of the query's text was left out."""

    def __repr__(self) -> str:
        best = self.candidates[0] if self.candidates else None
        return (
            f"Ranking({len(self.candidates)} candidates, best={best}, "
            f"model={self.model!r}, version={self.version!r}, space={self.space!r})"
        )

    def _repr_html_(self) -> str:
        return ranking_html(self)


@dataclass(frozen=True)
class ModelVersion:
    """A version of a model."""

    version: str
    """The version's name."""
    space: str
    """The vector space that it makes vectors in."""
    aliases: tuple[str, ...]
    """The aliases that point to it."""


@dataclass(frozen=True)
class Model:
    """A model that is served."""

    name: str
    """The model's name."""
    backbone: str
    """The architecture, such as "qwen2_vl"."""
    dimension: int
    """Components of a whole vector; 0 until a worker has loaded it."""
    ready: bool
    """Whether a worker is ready for it."""
    versions: tuple[ModelVersion, ...]
    """The versions of the model that are served."""


class HasSpace(Protocol):
    """Anything that was made by one version, and so in one space."""

    @property
    def version(self) -> str:
        """The name of the version."""

    @property
    def space(self) -> str:
        """The name of the vector space."""


class OneSpace:
    """Checks that all vectors of a call are of one space."""

    def __init__(self) -> None:
        self._first: HasSpace | None = None

    @property
    def space(self) -> str:
        """The space of the first that was checked; empty before."""
        return "" if self._first is None else self._first.space

    def check(self, item: HasSpace) -> None:
        """Raises `SpaceChanged` if ``item`` is of another space than the first that was checked."""
        if self._first is None:
            self._first = item
        elif item.space != self._first.space:
            raise SpaceChanged(
                f"the call has vectors of space {self._first.space!r} (version "
                f"{self._first.version!r}) and of space {item.space!r} (version "
                f"{item.version!r}), which do not compare: pin one with version= or space="
            )


def embedding(message: pb.Embedding) -> Embedding:
    """Returns the `Embedding` in ``message``; raises `Internal` where its vector is malformed."""
    timings = message.timings
    return Embedding(
        vector=to_array(message.vector),
        model=message.model,
        version=message.version,
        space=message.space,
        tokens=message.tokens,
        truncated=message.truncated,
        timings=Timings(
            timings.preprocess_seconds, timings.queue_seconds, timings.inference_seconds
        ),
    )


def models(message: pb.ListModelsResponse) -> list[Model]:
    """Returns the models in ``message``, in its order."""
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
