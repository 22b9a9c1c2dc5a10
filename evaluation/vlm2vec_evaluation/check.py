"""Looks through the files of a suite before anything is embedded, and says what is missing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_evaluation.suite import DataSet, Suite
from vlm2vec_evaluation.task import PoolTask

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

BACKBONE = "qwen2_vl"
"""A family that takes all that any does: which one is asked later is not known."""


@dataclass(frozen=True)
class Checked:
    """What a data set's files are: the number of queries and candidates, and what is wrong, "" for
    nothing."""

    name: str
    queries: int = 0
    candidates: int = 0
    problem: str = ""
    fetch: str = ""


def check(suite: Suite, data_sets: Sequence[DataSet], limit: int | None) -> Iterator[Checked]:
    """Reads each data set, and looks for each picture that it names, without decoding any."""
    for data_set in data_sets:
        try:
            yield _check(suite, data_set, limit)
        except UnsupportedError as error:
            yield Checked(data_set.name, problem=f"will be skipped: {error}")
        except EvaluationError as error:
            yield Checked(data_set.name, problem=str(error), fetch=suite.fetch_of(data_set))


def _check(suite: Suite, data_set: DataSet, limit: int | None) -> Checked:
    task = read_task(suite, data_set, BACKBONE, limit)
    if isinstance(task, PoolTask):
        queries = _there(query.input for query in task.queries())
        names: set[str] = set()
        _there(_named(task.candidates(), names))
        return Checked(data_set.name, queries, len(names))
    found = {id(item): item for record in task.records for item in record.candidates}
    return Checked(
        data_set.name, _there(record.query for record in task.records), _there(found.values())
    )


def _named(candidates: "Iterable[tuple[str, InputLike]]", names: set[str]) -> "Iterator[InputLike]":
    """Adds each candidate's name to ``names``."""
    for name, item in candidates:
        names.add(name)
        yield item


def _there(items: "Iterable[InputLike]") -> int:
    """Counts inputs. Raises `EvaluationError` for the first file that is not there."""
    known: set[Path] = set()
    count = 0
    for item in items:
        count += 1
        video = getattr(item, "video", None)
        for one in (*getattr(item, "images", ()), *(video if isinstance(video, list) else ())):
            if isinstance(one, Path) and one not in known:
                if not one.is_file():
                    raise EvaluationError(f"{one}: there is no such file")
                known.add(one)
    return count


def line(one: Checked) -> str:
    """Writes a line for a data set, and below it the command that fetches what is missing."""
    if not one.problem:
        return f"ok       {one.name}: {one.queries} queries, {one.candidates} candidates"
    if not one.fetch:
        return f"skipped  {one.name}: {one.problem}"
    return f"missing  {one.problem}\n         {one.fetch}"
