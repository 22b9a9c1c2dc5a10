"""What a registry says of a model at one moment: its versions, and which alias stands for which.

Nothing here knows MLflow, which takes seconds to import.
"""

import json
from dataclasses import asdict, dataclass, field
from typing import Any

CHAMPION, CANARY, SHADOW = "champion", "canary", "shadow"
"""The aliases that get traffic by themselves: all calls that name no version, a share of them, and
copies of what the champion answers."""


@dataclass(frozen=True)
class PublishedVersion:
    """One adapter version as the registry describes it. ``uri`` is where its files are,
    ``digests`` are theirs, ``base`` is the hexadecimal digest of the base it was made for."""

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
    def from_json(cls, text: str) -> "Snapshot":
        """Reads what `to_json` wrote. Raises ValueError, TypeError, KeyError."""
        values = json.loads(text)
        versions = {key: PublishedVersion(**value) for key, value in values["versions"].items()}
        return cls(**{**values, "versions": versions})
