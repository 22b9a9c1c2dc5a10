"""What a registry says of a model at one moment: its versions, and which alias stands for which.

Nothing here knows MLflow, which takes seconds to import.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from vlm2vec_registry import artifact
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import RegistryError
from vlm2vec_registry.strict import Fields, FormatError, is_text, parse_object, shown

CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"
"""The aliases that get traffic by themselves: all calls that name no version, a share of them, and
copies of what the champion answers."""
SPACE, BASE, DIGESTS, EMBEDDING = (
    "vlm2vec.space", "vlm2vec.base", "vlm2vec.digests", "vlm2vec.embedding",
)  # fmt: skip
"""Tags of a version: its space, the digest of its base, its files' digests, its embedding.json."""
LOGGED_MODEL = "vlm2vec.logged_model"
"""The tag of a version that names the logged model of MLflow's that it is."""
SPACE_FORM, DIGEST_FORM = re.compile("[0-9a-f]{32}"), re.compile("[0-9a-f]{2,64}")


@dataclass(frozen=True)
class PublishedVersion:
    """One version as the registry describes it: an adapter, or the base itself. ``uri`` is where
    its files are, ``digests`` are theirs, ``base`` is the hexadecimal digest of the base."""

    model: str
    name: str
    uri: str
    run_id: str
    created: int
    space: str
    base: str
    digests: dict[str, str]
    embedding: dict[str, Any]
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def is_base(self) -> bool:
        """Whether there is no adapter."""
        return artifact.WEIGHTS not in self.digests

    @classmethod
    def from_tags(
        cls, model: str, name: str, uri: str, run_id: str, created: int, tags: Mapping[str, str]
    ) -> "PublishedVersion":
        """Reads what publishing wrote into a version's tags. Raises `FormatError` naming the tag
        that is missing or was not made by publishing."""
        given = Fields(dict(tags), f"version {name}: tags")
        for tag in (SPACE, BASE, DIGESTS, EMBEDDING):
            if not is_text(tags.get(tag)):
                given.fail(tag, "what publishing writes", tags.get(tag))
        for tag, form in ((SPACE, SPACE_FORM), (BASE, DIGEST_FORM)):
            if not form.fullmatch(tags[tag]):
                given.fail(tag, "a digest in hexadecimal", tags[tag])
        digests = parse_object(tags[DIGESTS], f"{given.where}: {DIGESTS}")
        _check_digests(digests, f"{given.where}: {DIGESTS}")
        embedding = parse_object(tags[EMBEDDING], f"{given.where}: {EMBEDDING}")
        EmbeddingConfig.from_dict(embedding, f"{given.where}: {EMBEDDING}")
        return cls(
            model, name, uri, run_id, created, tags[SPACE], tags[BASE], digests, embedding,
            dict(tags),
        )  # fmt: skip

    @classmethod
    def from_dict(cls, values: Any, where: str) -> "PublishedVersion":
        """Reads what a snapshot's JSON holds of a version. Raises `FormatError`."""
        given = Fields(values, where)
        texts = {
            key: given.text(key, "") for key in ("model", "name", "uri", "run_id", "space", "base")
        }
        digests = given.mapping("digests", is_text, "a string")
        _check_digests(digests, f"{where}: digests")
        embedding = given.any("embedding", {})
        EmbeddingConfig.from_dict(embedding, f"{where}: embedding")
        created = given.any("created", 0)
        if not isinstance(created, int):
            given.fail("created", "a whole number", created)
        tags = given.mapping("tags", is_text, "a string")
        return cls(**texts, created=created, digests=digests, embedding=embedding, tags=tags)


def _check_digests(digests: Mapping[str, Any], where: str) -> None:
    if set(digests) not in (set(artifact.FILES), set(artifact.BASE_FILES)):
        raise FormatError(f"{where}: they are not of {', '.join(artifact.FILES)}")
    for name, digest in digests.items():
        if not (is_text(digest) and DIGEST_FORM.fullmatch(digest)):
            raise FormatError(f"{where}: {name}: expected a digest, got {shown(digest)}")


@dataclass(frozen=True)
class Snapshot:
    """All that the registry says of a model at one moment. ``broken`` are versions that no server
    could use, and why."""

    model: str
    versions: dict[str, PublishedVersion]
    aliases: dict[str, str]
    canary_share: float = 0.0
    broken: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> str:
        """Writes the snapshot for a file that a server starts from while the registry is away."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, where: str = "snapshot") -> "Snapshot":
        """Reads what `to_json` wrote; a version that makes no sense is ``broken``. Raises
        `FormatError` where the whole makes none."""
        given = Fields(parse_object(text, where), where)
        broken = given.mapping("broken", is_text, "a string")
        versions = {}
        for name, values in given.mapping("versions", lambda _: True, "anything").items():
            try:
                versions[name] = PublishedVersion.from_dict(values, f"{where}: versions.{name}")
            except RegistryError as error:
                broken[name] = str(error)
        return cls(
            model=given.text("model", ""),
            versions=versions,
            aliases=given.mapping("aliases", is_text, "a string"),
            canary_share=given.number("canary_share", 0.0, 0.0, 1.0),
            broken=broken,
        )
