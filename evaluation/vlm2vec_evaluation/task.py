"""Tasks: queries, the candidates of each, and which of them are right."""

from collections.abc import Callable, Iterable, Mapping, Sequence
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


@dataclass(frozen=True)
class Query:
    """A query whose candidates are known by name.

    ``right`` has the grade of each right candidate, a positive number; ``candidates`` names those
    that are ranked, or is None where all of the data set are.
    """

    input: "InputLike"
    right: Mapping[str, float]
    candidates: Sequence[str] | None = None


@dataclass(frozen=True)
class PoolTask:
    """A data set that is read as it is embedded, and never whole in memory.

    ``candidates`` and ``queries`` start from the beginning each time that they are called. Of
    several candidates of one name the first counts. ``metric`` is the data set's own, by the name
    that `metrics` has for it.
    """

    name: str
    meta_task: str
    queries: Callable[[], Iterable[Query]]
    candidates: Callable[[], Iterable[tuple[str, "InputLike"]]]
    split: str = "none"
    metric: str = "hit@1"
