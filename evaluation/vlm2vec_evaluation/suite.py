"""Reads suite files, which say what data sets are evaluated and where their data lie."""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vlm2vec_evaluation.errors import EvaluationError

META_TASKS = ("classification", "vqa", "retrieval", "grounding")
SPLITS = ("ind", "ood")
"""In distribution: a data set of the same name was trained on; out of distribution: none was."""
PROMPTS = ("mmeb", "template")
OVERALL = "overall"
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""The pattern of a name, which becomes part of an MLflow tag and of metrics' names."""


@dataclass(frozen=True)
class DataSet:
    """One data set of a suite. ``path`` is a folder of parquet files, a .parquet or a .jsonl file.

    ``query_instruction`` and ``target_instruction`` stand in for those of the rows.
    ``query_suffix`` ends the query's prompt in a suite with ``prompts: mmeb``.
    """

    name: str
    path: str
    meta_task: str
    split: str = "ind"
    query_instruction: str | None = None
    target_instruction: str | None = None
    query_suffix: str = "\n"


@dataclass(frozen=True)
class Suite:
    """Data sets that are evaluated together. Relative paths start at ``root``.

    ``images`` is where the rows' image paths start. ``prompts`` says who joins instruction and
    text: "mmeb" as upstream's evaluation does, "template" the adapter's ``embedding.json``.
    """

    name: str
    root: Path
    data_sets: tuple[DataSet, ...]
    images: str = "."
    prompts: str = "mmeb"

    @property
    def digest(self) -> str:
        """A digest of what the file says, in 32 hexadecimal digits.

        The file's spelling and its place do not change it.
        """
        values = asdict(self)
        del values["root"]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

    def path(self, data_set: DataSet) -> Path:
        """Finds the rows of ``data_set``. Raises `EvaluationError` if there is nothing."""
        path = self.root / data_set.path
        if not path.exists():
            raise EvaluationError(
                f"data set {data_set.name}: {path} does not exist; relative paths start at the "
                "suite's folder, or at --data"
            )
        return path


def shipped() -> list[str]:
    """Lists the names of the suites that come with this package."""
    folder = resources.files("vlm2vec_evaluation") / "suites"
    return sorted(item.name.removesuffix(".yaml") for item in folder.iterdir())


def read_suite(source: str | Path, root: Path | None = None) -> Suite:
    """Reads the suite in the file ``source``, or the shipped one of that name.

    ``root`` is where relative paths start, if not at the file's folder. Raises `EvaluationError`
    that names the file and the key at fault.
    """
    path = Path(source)
    if not path.is_file():
        if str(source) not in shipped():
            raise EvaluationError(
                f"suite {source}: no such file, and none of those shipped: {', '.join(shipped())}"
            )
        path = Path(str(resources.files("vlm2vec_evaluation") / "suites" / f"{source}.yaml"))
    try:
        return parse_suite(yaml.safe_load(path.read_text()), path.stem, root or path.parent)
    except (OSError, yaml.YAMLError, EvaluationError) as error:
        raise EvaluationError(f"{path}: {error}") from error


def parse_suite(values: Any, name: str, root: Path) -> Suite:
    """Makes a suite of parsed YAML; ``name`` is its name if the YAML has none.

    Raises `EvaluationError` that names the key at fault.
    """
    _check_keys("the whole", values, {"name", "images", "prompts", "data_sets"}, {"data_sets"})
    rows = values["data_sets"]
    if not isinstance(rows, list) or not rows:
        raise EvaluationError("data_sets: expected a list of at least one data set")
    data_sets = tuple(_data_set(f"data_sets[{index}]", row) for index, row in enumerate(rows))
    names = [item.name for item in data_sets]
    if twice := sorted({item for item in names if names.count(item) > 1}):
        raise EvaluationError(f"data_sets: {', '.join(twice)} is there twice")
    settings = {key: _text(key, values[key]) for key in ("images", "prompts") if key in values}
    suite = Suite(_name("name", values.get("name", name)), root, data_sets, **settings)
    _check_choice("prompts", suite.prompts, PROMPTS)
    return suite


def _data_set(where: str, values: Any) -> DataSet:
    known = {item.name for item in fields(DataSet)}
    _check_keys(where, values, known, {"name", "path", "meta_task"})
    values = {key: _text(f"{where}.{key}", value) for key, value in values.items()}
    data_set = DataSet(**values)
    if _name(f"{where}.name", data_set.name) in (*META_TASKS, *SPLITS, OVERALL):
        raise EvaluationError(f"{where}.name: {data_set.name!r} is the name of an average")
    _check_choice(f"{where}.meta_task", data_set.meta_task, META_TASKS)
    _check_choice(f"{where}.split", data_set.split, SPLITS)
    return data_set


def _check_keys(where: str, values: Any, known: set[str], needed: set[str]) -> None:
    if not isinstance(values, dict):
        raise EvaluationError(f"{where}: expected keys and values")
    if unknown := sorted(set(map(str, values)) - known):
        raise EvaluationError(
            f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(sorted(known))}"
        )
    if missing := sorted(needed - set(values)):
        raise EvaluationError(f"{where}: {', '.join(missing)} is missing")


def _check_choice(where: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise EvaluationError(f"{where}: {value!r} is not one of {', '.join(choices)}")


def _name(where: str, value: Any) -> str:
    if not (isinstance(value, str) and NAME.fullmatch(value)):
        raise EvaluationError(f"{where}: {value!r} is not letters, digits, dots, '-' and '_'")
    return value


def _text(where: str, value: Any) -> str:
    if not isinstance(value, str):
        raise EvaluationError(f"{where}: expected a string, got {value!r}")
    return value
