"""Which models are served, in which versions, and which one a request means."""

from dataclasses import dataclass, field
from pathlib import Path

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.space import space_of
from vlm2vec_service.errors import AdapterError, InvalidInputError, NotFoundError, listed

CHAMPION = "champion"
"""The alias that answers requests that name no version."""
BASE_VERSION = "base"
"""The version that is the model without an adapter."""


@dataclass(frozen=True)
class Version:
    """One version of a model: an adapter folder, or None for the base model."""

    name: str
    folder: Path | None
    space: str
    embedding: EmbeddingConfig


@dataclass
class Model:
    """A base model and its versions. ``aliases`` maps an alias to a version's name."""

    name: str
    base: Path
    backbone: str
    versions: dict[str, Version]
    aliases: dict[str, str] = field(default_factory=dict)

    def version(self, alias: str = "", version: str = "", space: str = "") -> Version:
        """The version that at most one of the three names; the champion if none does.

        Raises `NotFoundError` that lists what there is.
        """
        if space:
            found = [item for item in self.versions.values() if item.space == space]
            if not found:
                raise NotFoundError(f"model {self.name!r} has no version in space {space!r}")
            return found[0]
        if not version:
            alias = alias or CHAMPION
            if alias not in self.aliases:
                raise NotFoundError(
                    f"model {self.name!r} has no alias {alias!r}; there are {listed(self.aliases)}"
                )
            version = self.aliases[alias]
        if version not in self.versions:
            raise NotFoundError(
                f"model {self.name!r} has no version {version!r}; there are {listed(self.versions)}"
            )
        return self.versions[version]

    def aliases_of(self, version: str) -> list[str]:
        """The aliases that point to ``version``, in order."""
        return sorted(alias for alias, target in self.aliases.items() if target == version)


@dataclass
class Catalog:
    """The models by name."""

    models: dict[str, Model]

    def model(self, name: str) -> Model:
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


def read_version(name: str, folder: Path | None, base_digest: bytes) -> Version:
    """A version from its adapter folder. Raises `AdapterError` that says what is wrong with it."""
    try:
        embedding = EmbeddingConfig.read(folder) if folder else EmbeddingConfig()
        return Version(name, folder, space_of(base_digest, folder), embedding)
    except (OSError, ValueError) as error:
        raise AdapterError(f"version {name!r}: {error}") from error
