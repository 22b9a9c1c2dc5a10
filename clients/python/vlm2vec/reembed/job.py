"""A job: what is known once, and shared by all parts of a corpus while they are embedded."""

from dataclasses import dataclass
from pathlib import Path

from vlm2vec.reembed.rows import IdType
from vlm2vec.reembed.settings import Settings


@dataclass(frozen=True)
class Target:
    """The version that the vectors are asked of, as the server names it."""

    model: str
    """The model's name."""
    version: str
    """The version's name."""
    space: str
    """The vector space that the version makes vectors in."""
    dimension: int
    """Components of a vector."""


@dataclass(frozen=True)
class Job:
    """All that embedding a part takes; it travels to wherever the part is embedded."""

    settings: Settings
    """What the run was asked for; ``source`` is absolute, as tasks may have another folder."""
    target: Target
    """The version that all vectors come from."""
    id_type: IdType
    """The type of all ids of the corpus."""
    folder: Path
    """The folder that the part files are written to, absolute."""
    digest: str
    """A hash that tells the part files of this job from those of another."""


@dataclass(frozen=True)
class EmbeddedPart:
    """Says that a part is embedded and that its file is there."""

    index: int
    """The part's place among the parts, from 0."""
    rows: int
    """The rows of the part, with those that failed."""
    failed: int
    """How many of them failed."""
