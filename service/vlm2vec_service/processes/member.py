"""A front-end process that is one of several: which one, and where the others are."""

import json
import math
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vlm2vec_registry.files import write_whole
from vlm2vec_service.settings import ServerSettings

FOLDER, NUMBER, COUNT = "VLM2VEC_MEMBER_FOLDER", "VLM2VEC_MEMBER_NUMBER", "VLM2VEC_MEMBER_COUNT"
"""Environment variables by which the owner tells a member what it is."""
OWNER = "owner"
"""What the owner goes by in metrics."""
DIVIDED = (
    "max_calls", "max_received_bytes", "max_prepared_bytes", "max_queue_requests",
    "max_queue_tokens",
)  # fmt: skip
"""Limits of the whole server, of which each member has its part."""


@dataclass(frozen=True)
class Member:
    """Member ``number``, from 0, of ``count`` that share ``folder``."""

    folder: Path
    number: int
    count: int

    @classmethod
    def from_environment(cls) -> "Member | None":
        """Which one this process is; None for a front end by itself."""
        if FOLDER not in os.environ:
            return None
        return cls(Path(os.environ[FOLDER]), int(os.environ[NUMBER]), int(os.environ[COUNT]))

    @property
    def environment(self) -> dict[str, str]:
        """The variables that `from_environment` reads."""
        return {FOLDER: str(self.folder), NUMBER: str(self.number), COUNT: str(self.count)}

    def part_of(self, settings: ServerSettings) -> ServerSettings:
        """The settings with this member's part of the limits that hold for the whole server; any
        message has room in each."""
        parts = {name: math.ceil(getattr(settings, name) / self.count) for name in DIVIDED}
        for name in ("max_received_bytes", "max_prepared_bytes"):
            parts[name] = max(parts[name], min(getattr(settings, name), _room(settings)))
        return replace(settings, **parts)

    def socket_of(self, number: int) -> Path:
        """Where a member answers the others."""
        return self.folder / f"member-{number}.sock"

    @property
    def others(self) -> list[Path]:
        """Where the other members answer."""
        return [self.socket_of(number) for number in range(self.count) if number != self.number]


def _room(settings: ServerSettings) -> int:
    """Bytes of which one caller may have those of the largest message."""
    return 2 * settings.max_message_bytes


@dataclass(frozen=True)
class Shared:
    """What the owner tells all members: the ``sockets`` of the workers by model and device, and the
    ``digests`` of the bases by model, which take long to compute."""

    sockets: dict[str, dict[str, str]]
    digests: dict[str, str]

    def write(self, folder: Path) -> None:
        """Writes it for the members."""
        write_whole(folder / "shared.json", json.dumps(vars(self)))

    @classmethod
    def read(cls, folder: Path) -> "Shared":
        """Reads what the owner wrote."""
        said: dict[str, Any] = json.loads((folder / "shared.json").read_text())
        return cls(**said)
