"""What a run is asked for, and what it gives."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec.options import Options
from vlm2vec.reembed.folder import Layout

SELECTORS = ("alias", "version", "space")


@dataclass(frozen=True)
class Settings:
    """Raises ValueError for what cannot be."""

    connection: Mapping[str, Any] = field(repr=False)
    """The arguments of `Client`."""
    model: str
    """Its name; empty where the server has one only."""
    to: str
    """``alias:NAME``, ``version:NAME`` or ``space:NAME``."""
    from_space: str
    """The space of the corpus's present vectors."""
    source: Path
    """The corpus."""
    output: Path
    """A ``.parquet`` file, or a folder."""
    instruction: str | None = None
    """The task of the rows that have none."""
    dimensions: int = 0
    """Keep the first so many components; 0 keeps all."""
    ignore: tuple[str, ...] = ()
    """Columns that are left out."""
    part_rows: int = 4096
    """Rows of a part."""
    streams: int = 2
    """Parts under way at a time."""
    window: int = 256
    """Rows of a part under way at a time."""
    max_failed: int = 1000
    """Failed rows above which the run stops."""
    retry_failed: bool = False
    """Embed parts with failed rows again."""
    engine: str = "local"
    """One of `vlm2vec.reembed.engines.ENGINES`."""
    progress: bool = False
    """Show a bar."""

    def __post_init__(self) -> None:
        kind, _, name = self.to.partition(":")
        if kind not in SELECTORS or not name:
            raise ValueError(f"--to is {self.to!r}, not alias:NAME, version:NAME or space:NAME")
        for key in ("part_rows", "streams", "window"):
            if getattr(self, key) < 1:
                flag = key.replace("_", "-")
                raise ValueError(f"--{flag} is {getattr(self, key)}, not at least 1")

    @property
    def selector(self) -> Options:
        """Model and version, as calls take them."""
        kind, _, name = self.to.partition(":")
        options: Options = {"model": self.model}
        match kind:
            case "alias":
                options["alias"] = name
            case "version":
                options["version"] = name
            case _:
                options["space"] = name
        return options


@dataclass(frozen=True)
class Result:
    """What there is at the end."""

    rows: int
    """With those that failed."""
    failed: int
    space: str
    """Of all vectors."""
    places: Layout
    """Where everything is."""
