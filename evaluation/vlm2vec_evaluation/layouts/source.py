"""What a reader is given, and the files that readers share: rows, frames."""

import csv
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

import numpy as np

from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_evaluation.prompts import Writer
from vlm2vec_evaluation.suite import DataSet, Suite
from vlm2vec_evaluation.task import PoolTask, Query
from vlm2vec_service.offline.rows import RowError, stream_rows

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

T = TypeVar("T")
PICTURES = (".jpg", ".jpeg", ".png")
FRAMES = 8
"""How many frames of a video are embedded, as everywhere in MMEB."""
Row = dict[str, Any]


@dataclass(frozen=True)
class Source:
    """One data set of a suite, on disk. ``limit`` is how many queries are read, None for all.

    In ``missing`` the places of media are collected at which there is nothing, for a check that
    goes on behind the first one. Nothing is decoded then.
    """

    suite: Suite
    data_set: DataSet
    backbone: str
    limit: int | None = None
    missing: list[Path] | None = None

    @property
    def writer(self) -> Writer:
        """What writes the inputs."""
        return Writer.of(self.backbone, self.suite.prompts)

    @property
    def checking(self) -> bool:
        """Whether media are only looked for."""
        return self.missing is not None

    @property
    def path(self) -> Path:
        """Where the rows are. Raises `EvaluationError` if there is nothing."""
        return self.suite.path(self.data_set)

    def text(self, key: str, usual: str = "") -> str:
        """Returns an option of the data set."""
        return str(self.data_set.options.get(key, usual))

    def folder(self, key: str) -> Path:
        """Returns the place that an option names, which starts at the suite's root."""
        return self.suite.root / self.text(key)

    def some(self, rows: Iterator[T]) -> Iterator[tuple[int, T]]:
        """Numbers the rows of queries from 1, as far as they are read: to the limit, and to the
        ``first`` of the data set that count."""
        most = [most for most in (self.limit, self.data_set.options.get("first")) if most]
        return enumerate(islice(rows, min(most, default=None)), 1)

    def task(
        self,
        queries: Callable[[], Iterable[Query]],
        candidates: Callable[[], "Iterable[tuple[str, InputLike]]"],
        needs: str = "",
    ) -> PoolTask:
        """Makes the data set's task. Errors that a row raises name the data set and its rows.

        Where the family does not take the kind of media that it ``needs``, no file is read.
        """
        data_set = self.data_set
        if needs and needs not in self.writer.takes:
            queries = candidates = lambda: _refuse(needs)
        return PoolTask(
            data_set.name, data_set.meta_task,
            lambda: self._named(queries()), lambda: self._named(candidates()),
            data_set.split, data_set.metric,
        )  # fmt: skip

    def _named(self, items: Iterable[T]) -> Iterator[T]:
        try:
            yield from items
        except UnsupportedError:
            raise
        except EvaluationError as error:
            raise EvaluationError(f"data set {self.data_set.name}: {self.path}: {error}") from None

    def frames(self, folder: Path) -> list[Path]:
        """Lists the frames of the video in ``folder`` that are embedded.

        Of more than there may be, those at evenly spaced places from the first to the last are
        taken. Raises `EvaluationError` if there is none.
        """
        count = int(self.data_set.options.get("count", FRAMES))
        pad = bool(self.data_set.options.get("pad", False))
        return sample(self.pictures(folder), count, pad=pad)

    def pictures(self, folder: Path) -> list[Path]:
        """Lists the pictures in ``folder``, as `pictures` does; in a check, none if none is
        there."""
        try:
            return pictures(folder)
        except EvaluationError as error:
            self.lacks(folder, error)
            return []

    def lacks(self, place: Path, error: EvaluationError) -> None:
        """Notes in a check that there is nothing at ``place``; else raises ``error``."""
        if self.missing is None:
            raise error
        self.missing.append(place)


def _refuse(kind: str) -> NoReturn:
    raise UnsupportedError(f"the backbone takes no {kind}")


def sample(frames: Sequence[T], count: int, *, pad: bool = False) -> list[T]:
    """Takes ``count`` of ``frames`` at evenly spaced places; 0 takes all of them.

    Of fewer it takes all, or, with ``pad``, some of them several times.
    """
    if not count or not frames or (len(frames) <= count and not pad):
        return list(frames)
    places = np.linspace(0, len(frames) - 1, count).astype(int)
    return [frames[place] for place in places]


def pictures(folder: Path) -> list[Path]:
    """Lists the pictures in ``folder`` in the order of the numbers in their names.

    Raises `EvaluationError` if there is none.
    """
    try:
        found = [path for path in folder.iterdir() if path.suffix.lower() in PICTURES]
    except OSError as error:
        raise EvaluationError(f"{folder}: {error.strerror}") from error
    if not found:
        raise EvaluationError(f"{folder}: no picture is there")
    return sorted(found, key=natural)


def natural(path: Path) -> list[tuple[int, int | str]]:
    """A key for sorting by name in which 10 comes behind 9."""
    parts = re.split(r"(\d+)", path.name)
    return [(0, int(part)) if part.isdigit() else (1, part) for part in parts]


def rows(path: Path) -> Iterator[Row]:
    """Reads rows in order: of a file, or of the files of a folder, wherever in it they lie.

    It takes parquet, JSON lines, a JSON list, and tables with a header, separated by commas or
    tabs. Of a folder that has a test split the files of that are read. Raises `EvaluationError`.
    """
    for file in files(path):
        try:
            if file.suffix in (".csv", ".tsv", ".txt"):
                with file.open(newline="", encoding="utf-8") as lines:
                    comma = "," if file.suffix == ".csv" else "\t"
                    yield from csv.DictReader(lines, delimiter=comma)
            elif file.suffix == ".json":
                yield from _list(json.loads(file.read_text()), file)
            else:
                yield from stream_rows(file)
        except (RowError, OSError, ValueError) as error:
            raise EvaluationError(f"{file}: {error}") from error


def files(path: Path) -> list[Path]:
    """Lists the files of rows at ``path``. Raises `EvaluationError` if there is none."""
    if path.is_file():
        return [path]
    if "*" in path.name:
        found = sorted(path.parent.glob(path.name))
    else:
        for pattern in ("*.parquet", "*.jsonl", "*.json", "**/*.parquet", "**/*.jsonl"):
            if found := sorted(path.glob(pattern)):
                break
        found = [file for file in found if file.name.startswith("test")] or found
    if not found:
        raise EvaluationError(f"{path}: no .parquet, .jsonl or .json file is there")
    return found


def value(row: Row, where: str, *keys: str) -> Any:
    """Returns the first of ``keys`` that the row has. Raises `EvaluationError` if it has none."""
    for key in keys:
        if row.get(key) is not None:
            return row[key]
    raise EvaluationError(f"{where}: {' or '.join(keys)} is missing; there are {', '.join(row)}")


def listed(found: Any) -> list[Any]:
    """Returns a list as it is, the list that a JSON text is, and anything else as the only item."""
    if isinstance(found, str) and found.lstrip().startswith(("[", "{")):
        try:
            found = json.loads(found)
        except ValueError:
            return [found]
    return found if isinstance(found, list) else [found]


def _list(found: Any, file: Path) -> list[Row]:
    if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
        raise EvaluationError(f"{file}: expected a list of objects")
    return found
