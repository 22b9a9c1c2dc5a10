"""Tasks: queries, the candidates of each, and which of them are right."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike


@dataclass(frozen=True)
class Record:
    """A query with its candidates, of which equal ones count as one."""

    query: "InputLike"
    candidates: Sequence["InputLike"]
    right: tuple[int, ...] = (0,)
    """The index of the right candidate; or of several, where any will do."""


@dataclass(frozen=True)
class Task:
    """A data set in memory.

    Records may share candidates: an object that stands in several is hashed once.
    """

    name: str
    meta_task: str
    records: Sequence[Record]
    split: str = "ind"
