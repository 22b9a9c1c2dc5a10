"""The settings of a run, and its result."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vlm2vec.options import Options
from vlm2vec.reembed.folder import Layout

SELECTORS = ("alias", "version", "space")


@dataclass(frozen=True)
class Settings:
    """What a run is asked for; raises ValueError for values that cannot be."""

    connection: Mapping[str, Any] = field(repr=False)
    """The arguments of `Client`, the API key among them."""
    model: str
    """The model's name; empty where the server has only one."""
    to: str
    """The target: ``alias:NAME``, ``version:NAME`` or ``space:NAME``."""
    from_space: str
    """The space of the corpus's present vectors."""
    source: Path
    """The corpus, a ``.parquet`` or ``.jsonl`` file; relative paths in it start in its folder."""
    output: Path
    """A ``.parquet`` file, or a folder."""
    instruction: str | None = None
    """The instruction of the rows that have none."""
    dimensions: int = 0
    """How many of a vector's first components to keep; 0 keeps all."""
    truncate: bool | int = False
    """How many tokens a row may have before the end of its text is left out, as in `Options`."""
    ignore: tuple[str, ...] = ()
    """Columns of the corpus that are left out."""
    part_rows: int = 4096
    """Rows of a part file; the last may have fewer."""
    streams: int = 2
    """How many parts are embedded at a time."""
    window: int = 256
    """How many rows of a part may be without an answer at a time."""
    max_failed: int = 1000
    """How many rows may fail before the run stops."""
    retry_failed: bool = False
    """Whether to embed the parts that have failed rows again."""
    engine: str = "local"
    """Where the parts are embedded: a key of `vlm2vec.reembed.engines.ENGINES`."""
    progress: bool = False
    """Whether to show a bar on standard error; needs tqdm."""

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
        """The model and the version, alias or space of ``to``, as calls take them."""
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
    """What a run that came to its end has written."""

    rows: int
    """Rows of the corpus, with those that failed."""
    failed: int
    """How many rows have no vector."""
    space: str
    """The space of all vectors."""
    places: Layout
    """The paths of the files."""
