"""Tasks: what is asked, among which candidates, and which of them is right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike


@dataclass(frozen=True)
class Record:
    """One query. Candidates that are equal count as one."""

    query: "InputLike"
    candidates: Sequence["InputLike"]
    right: tuple[int, ...] = (0,)
    """Index of the right candidate; or of several, where any will do."""


@dataclass(frozen=True)
class Task:
    """A data set in memory. Each candidate is hashed once if records share the object."""

    name: str
    meta_task: str
    records: Sequence[Record]
    split: str = "ind"
