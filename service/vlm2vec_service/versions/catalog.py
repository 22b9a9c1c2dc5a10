"""Which models are served, in which versions, and which one a request means."""

import hashlib
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.snapshot import CANARY, CHAMPION, SHADOW, PublishedVersion
from vlm2vec_registry.space import space_of
from vlm2vec_service.errors import (
    AdapterError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
    listed,
)

BASE_VERSION = "base"
"""The version that is the model without an adapter."""
TRAFFIC = (CHAMPION, CANARY, SHADOW)
"""The aliases that get traffic by themselves; any other only answers who names it."""


@dataclass(frozen=True)
class Version:
    """One version of a model: an adapter in ``folder``, or one that is ``published`` in the
    registry and fetched when it is needed, or neither: the base model. ``config`` is its
    ``embedding.json``."""

    name: str
    folder: Path | None
    space: str
    config: EmbeddingConfig
    published: PublishedVersion | None = None

    @property
    def is_base(self) -> bool:
        """Whether there is no adapter."""
        return self.name == BASE_VERSION

    @property
    def adapter(self) -> str:
        """The name by which workers hold it; empty for the base model."""
        return "" if self.is_base else self.name


@dataclass
class ServedModel:
    """A base model and its versions. ``aliases`` maps an alias to a version's name; ``digest`` is
    that of the base. ``retired`` are spaces that were served once and are no more. Only `Residency`
    changes it."""

    name: str
    base: Path
    backbone: str
    digest: bytes
    versions: dict[str, Version]
    aliases: dict[str, str] = field(default_factory=dict)
    canary_share: float = 0.0
    retired: set[str] = field(default_factory=set)

    def choose(
        self, alias: str = "", version: str = "", space: str = "", routing_key: str = ""
    ) -> Version:
        """The version that at most one of the three names.

        Where none does, the champion or, for its share of routing keys, the canary: equal keys get
        the same one for as long as neither changes, and a growing share only adds keys. Raises
        `NotFoundError` that lists what there is, `AdapterError` for a space that was retired, and
        `UnavailableError` where the champion is not known yet.
        """
        if space:
            return self._in_space(space)
        if version:
            return self._called(version)
        if not alias:
            alias = CHAMPION
            if CANARY in self.aliases and _position(self.name, routing_key) < self.canary_share:
                alias = CANARY
            if alias not in self.aliases:
                raise UnavailableError(
                    f"model {self.name!r} has no {CHAMPION} yet; promote a version, or name one",
                    5.0,
                )
        if alias not in self.aliases:
            raise NotFoundError(
                f"model {self.name!r} has no alias {alias!r}; there are {listed(self.aliases)}"
            )
        return self._called(self.aliases[alias])

    def _called(self, version: str) -> Version:
        if version not in self.versions:
            raise NotFoundError(
                f"model {self.name!r} has no version {version!r}; there are {listed(self.versions)}"
            )
        return self.versions[version]

    def _in_space(self, space: str) -> Version:
        for version in self.versions.values():
            if version.space == space:
                return version
        if space in self.retired:
            raise AdapterError(
                f"space {space!r} of model {self.name!r} was retired: no version makes its vectors "
                "any more; re-embed what is indexed in it"
            )
        raise NotFoundError(f"model {self.name!r} has no version in space {space!r}")

    @property
    def in_traffic(self) -> AbstractSet[str]:
        """Names of the versions that must stay loaded."""
        return {self.aliases[alias] for alias in TRAFFIC if alias in self.aliases}

    def aliases_of(self, version: str) -> list[str]:
        """The aliases that point to ``version``, in order."""
        return sorted(alias for alias, target in self.aliases.items() if target == version)


@dataclass
class Catalog:
    """The models by name."""

    models: dict[str, ServedModel]

    def model(self, name: str) -> ServedModel:
        """The model called ``name``; with an empty name, the only one there is.

        Raises `NotFoundError`, or `InvalidInputError` where a name is needed.
        """
        if not name:
            if len(self.models) == 1:
                return next(iter(self.models.values()))
            raise InvalidInputError("model.name", f"needed; there are {listed(self.models)}")
        if name not in self.models:
            raise NotFoundError(f"model {name!r} is not served; there are {listed(self.models)}")
        return self.models[name]


def _position(model: str, routing_key: str) -> float:
    """Where a key lies between 0 and 1: the same in every process, another for each model."""
    digest = hashlib.blake2b(f"{model}\0{routing_key}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) / 2**64


def read_version(name: str, folder: Path | None, base_digest: bytes) -> Version:
    """A version from its adapter folder. Raises `AdapterError` that says what is wrong with it."""
    try:
        config = EmbeddingConfig.read(folder) if folder else EmbeddingConfig()
        return Version(name, folder, space_of(base_digest, folder), config)
    except (OSError, ValueError) as error:
        raise AdapterError(f"version {name!r}: {error}") from error
