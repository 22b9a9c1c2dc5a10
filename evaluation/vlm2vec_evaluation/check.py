"""Looks through the files of a suite before anything is embedded, and says what is missing."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.data import read_task
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.prompts import takes
from vlm2vec_evaluation.suite import DataSet, Suite
from vlm2vec_evaluation.task import PoolTask, Task
from vlm2vec_service.backbones import FAMILIES

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

MOST = 3
"""How many of the missing files are named."""


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
    """Reads each data set, and looks for each file that it names, without decoding any.

    It reads them for the family that takes the most: which one is asked later is not known.
    """
    backbone = max(FAMILIES, key=lambda name: len(takes(name)))
    for data_set in data_sets:
        yield _check(suite, data_set, backbone, limit)


def _check(suite: Suite, data_set: DataSet, backbone: str, limit: int | None) -> Checked:
    names: set[object] = set()
    missing: list[Path] = []
    problems: list[str] = []
    queries = 0
    try:
        asked, candidates = _inputs(read_task(suite, data_set, backbone, limit, missing), names)
        for items in (candidates, asked):
            try:
                queries = _looked_for(items, missing)  # of the queries, which are the last
            except EvaluationError as error:
                problems.append(str(error))
    except EvaluationError as error:
        problems.append(str(error))
    if lacking := list(dict.fromkeys(missing)):
        named = ", ".join(str(path) for path in lacking[:MOST])
        more = f", and {len(lacking) - MOST} more" if len(lacking) > MOST else ""
        problems.append(f"data set {data_set.name}: {len(lacking)} not there: {named}{more}")
    if problems:
        problem = "\n         ".join(dict.fromkeys(problems))
        return Checked(data_set.name, problem=problem, fetch=suite.fetch_of(data_set))
    return Checked(data_set.name, queries, len(names))


def _inputs(
    task: Task | PoolTask, names: set[object]
) -> "tuple[Iterable[InputLike], Iterable[InputLike]]":
    """Gives the queries of a task, and its candidates, whose names are added to ``names``."""
    if isinstance(task, PoolTask):
        return (query.input for query in task.queries()), _named(task.candidates(), names)
    found = {id(item): item for record in task.records for item in record.candidates}
    return (record.query for record in task.records), _named(found.items(), names)


def _named(
    candidates: "Iterable[tuple[object, InputLike]]", names: set[object]
) -> "Iterator[InputLike]":
    for name, item in candidates:
        names.add(name)
        yield item


def _looked_for(items: "Iterable[InputLike]", missing: list[Path]) -> int:
    """Counts inputs, and adds the files of their media that are not there to ``missing``."""
    known: set[Path] = set()
    number = 0
    for item in items:
        number += 1
        video = getattr(item, "video", None)
        frames = video if isinstance(video, list) else ()
        for one in (*getattr(item, "images", ()), *frames, *getattr(item, "audios", ())):
            if isinstance(one, Path) and one not in known:
                known.add(one)
                if not one.is_file():
                    missing.append(one)
    return number


def line(one: Checked) -> str:
    """Writes a line for a data set, and below it the command that fetches what is missing."""
    if not one.problem:
        return f"ok       {one.name}: {one.queries} queries, {one.candidates} candidates"
    return f"missing  {one.problem}\n         {one.fetch}"
