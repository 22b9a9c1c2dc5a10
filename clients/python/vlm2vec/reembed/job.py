"""What is to be done: settings that all parts of a job share."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec.reembed.rows import IdType


@dataclass(frozen=True)
class Target:
    """What answers, as the server names it."""

    model: str
    version: str
    space: str
    dimension: int
    """Components of a vector."""


@dataclass(frozen=True)
class Job:
    """All that embedding a part takes; it travels to wherever the part is embedded."""

    connection: Mapping[str, Any] = field(repr=False)
    """The arguments of `Client`, the API key among them."""
    target: Target
    source: Path
    """The corpus; paths in it start in its folder."""
    id_type: IdType
    ignore: tuple[str, ...]
    """Columns that are left out."""
    instruction: str | None
    """The task of the rows that have none."""
    dimensions: int
    """Keep the first so many components; 0 keeps all."""
    window: int
    """Rows under way at a time."""
    folder: Path
    """Where the parts go."""
    digest: str
    """Tells this job's parts from those of another."""
    from_space: str
    """The space of the vectors that are replaced."""


@dataclass(frozen=True)
class Done:
    """A part whose file is there."""

    index: int
    rows: int
    """With those that failed."""
    failed: int
