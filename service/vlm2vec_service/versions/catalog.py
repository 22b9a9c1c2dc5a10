"""Which models are served, in which versions, and which one a request means."""

import functools
import hashlib
import json
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from pathlib import Path

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.snapshot import CANARY, CHAMPION, SHADOW, PublishedVersion
from vlm2vec_registry.space import NOTHING, spaces_of
from vlm2vec_service.errors import (
    AdapterError,
    InvalidInputError,
    NotFoundError,
    ServeError,
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
    registry and fetched when it is needed, or neither: the base model, which a registry may have
    under a name of its own. ``config`` is its ``embedding.json``. ``former`` are the names that
    earlier rules gave its space."""

    name: str
    folder: Path | None
    space: str
    config: EmbeddingConfig
    published: PublishedVersion | None = None
    former: tuple[str, ...] = ()

    @property
    def is_base(self) -> bool:
        """Whether there is no adapter."""
        return self.folder is None and self.published is None

    @functools.cached_property
    def key(self) -> str:
        """What it goes by wherever it is held: empty for the base model, otherwise its name and a
        digest of all that is said of its contents. A name that stands for other contents than it
        did is so another version, whatever the registry calls it."""
        if self.is_base:
            return ""
        said = [self.space, json.loads(self.config.to_json())]
        if self.published is not None:
            said += [self.published.digests, self.published.base]
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()
        return f"{self.name}@{digest[:16]}"

    def makes(self, space: str) -> bool:
        """Whether its vectors are of ``space``, by the rule of today or one before."""
        return space in (self.space, *self.former)


@dataclass
class ServedModel:
    """A base model and its versions, by name. ``aliases`` are the versions that answer to an alias:
    one that has left ``versions`` goes on until the alias points elsewhere. ``awaited`` are those
    that are to answer to an alias once they are loaded. ``digest`` is that of the base. ``retired``
    are spaces that were served once and are no more. Only `Residency` changes it."""

    name: str
    base: Path
    backbone: str
    digest: bytes
    versions: dict[str, Version]
    aliases: dict[str, Version] = field(default_factory=dict)
    awaited: dict[str, Version] = field(default_factory=dict)
    canary_share: float = 0.0
    heard: bool = True
    """Whether all versions are known; False until a registry that is followed has answered once."""
    retired: set[str] = field(default_factory=set)

    def choose(
        self, alias: str = "", version: str = "", space: str = "", routing_key: str = ""
    ) -> Version:
        """Finds the version that at most one of the three names.

        Where none does, the champion or, for its share of routing keys, the canary: equal keys get
        the same one for as long as neither changes, and a growing share only adds keys. Raises
        `NotFoundError` that lists what there is, `AdapterError` for a space that was retired, and
        `UnavailableError` where the champion is not known yet, or the version not loaded.
        """
        if space:
            return self.in_space(space)[0]
        if version:
            if version not in self.versions:
                raise self._unknown(f"version {version!r}; there are {listed(self.versions)}")
            return self.versions[version]
        if not alias:
            alias = CHAMPION
            if CANARY in self.aliases and _position(self.name, routing_key) < self.canary_share:
                alias = CANARY
            if alias not in self.aliases and alias not in self.awaited:
                raise UnavailableError(
                    f"model {self.name!r} has no {CHAMPION} yet; promote a version, or name one",
                    5.0,
                )
        if alias in self.aliases:
            return self.aliases[alias]
        if alias in self.awaited:
            name = self.awaited[alias].name
            raise UnavailableError(
                f"model {self.name!r}: version {name!r}, its {alias}, is not loaded yet", 5.0
            )
        raise self._unknown(f"alias {alias!r}; there are {listed(self.aliases)}")

    def in_space(self, space: str) -> list[Version]:
        """Finds the versions that are said to make vectors of ``space``, those that answer to an
        alias first: what is said of the others has yet to be checked. Raises as `choose`."""
        found = {v.key: v for v in (*self.aliases.values(), *self.versions.values())
                 if v.makes(space)}  # fmt: skip
        if found:
            return list(found.values())
        if space in self.retired:
            raise AdapterError(
                f"space {space!r} of model {self.name!r} was retired: no version makes its vectors "
                "any more; re-embed what is indexed in it"
            )
        raise self._unknown(f"version in space {space!r}")

    def _unknown(self, what: str) -> ServeError:
        if self.heard:
            return NotFoundError(f"model {self.name!r} has no {what}")
        return UnavailableError(
            f"model {self.name!r} has no {what}, but its registry has not answered yet", 5.0
        )

    @property
    def in_traffic(self) -> AbstractSet[str]:
        """Keys of the versions that must stay loaded."""
        return {self.aliases[alias].key for alias in TRAFFIC if alias in self.aliases}

    def aliases_of(self, version: Version) -> list[str]:
        """The aliases that point to ``version``, in order."""
        wanted = version.name, version.key
        return sorted(alias for alias, v in self.aliases.items() if (v.name, v.key) == wanted)


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


def read_version(
    name: str, folder: Path | None, base_digest: bytes, own: EmbeddingConfig = NOTHING
) -> Version:
    """Reads a version from its adapter folder, or makes that of the base, which says ``own`` of
    itself. Raises `AdapterError` that says what is wrong."""
    try:
        config = EmbeddingConfig.read(folder) if folder else own
        space, *former = spaces_of(base_digest, folder, own)
    except (OSError, ValueError) as error:
        raise AdapterError(f"version {name!r}: {error}") from error
    return Version(name, folder, space, config, None, tuple(former))
