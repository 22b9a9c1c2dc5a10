"""Reads suite files, which say what data sets are evaluated and where their data lie."""

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.table import LAYOUTS

META_TASKS = {
    **dict.fromkeys(("classification", "vqa", "retrieval", "grounding", "products"), "image"),
    **dict.fromkeys(("video_cls", "video_qa", "video_ret", "video_mret"), "video"),
    **dict.fromkeys(("vidore_v1", "vidore_v2", "visrag", "visdoc_ood"), "visdoc"),
    **dict.fromkeys(("audio_cls", "audio_ret", "audio_moments"), "audio"),
    **dict.fromkeys(
        ("bright", "followir", "infosearch", "longembed", "multiconir", "nanobeir", "r2med"), "text"
    ),
    **dict.fromkeys(("tool_web", "tool_code", "tool_customized"), "tool"),
    "gui_states": "gui",
    "memories": "memory",
    "omniset": "omni",
}
"""The modality that each meta-task counts for."""
MODALITIES = tuple(dict.fromkeys(META_TASKS.values()))
SPLITS = ("ind", "ood")
"""In distribution: a data set of the same name was trained on; out of distribution: none was."""
UNSPLIT = "none"
"""The split of a data set that is counted in neither."""
METRICS = ("hit@1", "mrr", "ndcg_linear@5", "ndcg_linear@10")
"""What may be a data set's own metric, which its overall score is of."""
PROMPTS = ("mmeb", "template")
MISSING = ("leave_out", "zero")
"""They are left out of the averages, or count 0 in them."""
ROWS = "mmeb"
"""The layout of MMEB-eval's rows."""
OVERALL = "overall"
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The safe loader, in C where PyYAML was built with it: ten times as fast."""
NAME = re.compile(r"[A-Za-z0-9][\w.-]*")
"""The pattern of a name, which becomes part of an MLflow tag and of metrics' names."""


@dataclass(frozen=True)
class DataSet:
    """One data set of a suite. ``path`` is a folder of parquet files, a .parquet or a .jsonl file,
    or what its ``layout`` says, one of `layouts.LAYOUTS`, which ``options`` are for.

    ``query_instruction`` and ``target_instruction`` stand in for those of the rows.
    ``query_suffix`` ends the query's prompt in a suite with ``prompts: mmeb``. ``metric`` is the
    one that the data set is known by.
    """

    name: str
    path: str
    meta_task: str
    split: str = "ind"
    query_instruction: str | None = None
    target_instruction: str | None = None
    query_suffix: str = "\n"
    layout: str = ROWS
    metric: str = "hit@1"
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def modality(self) -> str:
        """The modality that it counts for."""
        return META_TASKS[self.meta_task]


@dataclass(frozen=True)
class Suite:
    """Data sets that are evaluated together. Relative paths start at ``root``.

    ``missing`` says what becomes of data sets whose inputs a model cannot take: one of `MISSING`.
    ``fetch`` has the command that fetches what is below a path, by the path's begin; ``{root}`` in
    it is the root, ``{repo}`` the first two parts of the path.

    ``images`` is where the rows' image paths start. ``prompts`` says who joins instruction and
    text: "mmeb" as upstream's evaluation does, "template" the adapter's ``embedding.json``.
    """

    name: str
    root: Path
    data_sets: tuple[DataSet, ...]
    images: str = "."
    prompts: str = "mmeb"
    missing: str = "leave_out"
    fetch: Mapping[str, str] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """A digest of what the file says, in 32 hexadecimal digits.

        The file's spelling and its place do not change it.
        """
        values = asdict(self)
        del values["root"], values["fetch"]
        if self.missing == MISSING[0]:
            del values["missing"]
        for data_set in values["data_sets"]:
            # They came later: a file that does not have them is the edition that it was.
            for key, usual in (("layout", ROWS), ("metric", "hit@1"), ("options", {})):
                if data_set[key] == usual:
                    del data_set[key]
        return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:32]

    def fetch_of(self, data_set: DataSet) -> str:
        """Returns the command that fetches the files of ``data_set``."""
        begins = [begin for begin in self.fetch if data_set.path.startswith(begin)]
        if not begins:
            return f"put its files below {self.root / data_set.path}"
        command = self.fetch[max(begins, key=len)]
        repository = "/".join(Path(data_set.path).parts[:2])
        return command.replace("{root}", str(self.root)).replace("{repo}", repository)

    def path(self, data_set: DataSet) -> Path:
        """Finds the rows of ``data_set``. Raises `EvaluationError` if there is nothing."""
        path = self.root / data_set.path
        # A pattern may name the files of one split.
        if not (any(path.parent.glob(path.name)) if "*" in path.name else path.exists()):
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
        values = yaml.load(path.read_text(), Loader=LOADER)
        return parse_suite(values, path.stem, root or path.parent)
    except (OSError, yaml.YAMLError, EvaluationError) as error:
        raise EvaluationError(f"{path}: {error}") from error


def parse_suite(values: Any, name: str, root: Path) -> Suite:
    """Makes a suite of parsed YAML; ``name`` is its name if the YAML has none.

    Raises `EvaluationError` that names the key at fault.
    """
    known = {"name", "images", "prompts", "missing", "fetch", "data_sets", "groups"}
    _check_keys("the whole", values, known, set())
    data_sets = tuple(_data_set(where, row) for where, row in [*_rows(values), *_grouped(values)])
    if not data_sets:
        raise EvaluationError("data_sets: expected a list of at least one data set")
    names = [item.name for item in data_sets]
    if twice := sorted({item for item in names if names.count(item) > 1}):
        raise EvaluationError(f"data_sets: {', '.join(twice)} is there twice")
    settings = {
        key: _text(key, values[key]) for key in ("images", "prompts", "missing") if key in values
    }
    fetch = values.get("fetch", {})
    _check_keys("fetch", fetch, set(fetch), set())
    suite = Suite(_name("name", values.get("name", name)), root, data_sets, fetch=fetch, **settings)
    _check_choice("prompts", suite.prompts, PROMPTS)
    _check_choice("missing", suite.missing, MISSING)
    return suite


def _rows(values: Mapping[str, Any], where: str = "") -> Iterator[tuple[str, Any]]:
    rows = values.get("data_sets", [])
    if not isinstance(rows, list):
        raise EvaluationError(f"{where}data_sets: expected a list of at least one data set")
    for index, row in enumerate(rows):
        yield f"{where}data_sets[{index}]", row


def _grouped(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Gives the data sets of each group what they ``share``; ``{name}`` in it is their own."""
    for number, group in enumerate(values.get("groups", [])):
        where = f"groups[{number}]"
        _check_keys(where, group, {"share", "data_sets"}, {"share", "data_sets"})
        if not isinstance(group["share"], dict):
            raise EvaluationError(f"{where}.share: expected keys and values")
        for place, row in _rows(group, f"{where}."):
            own = {"name": row} if isinstance(row, str) else row
            if not isinstance(own, dict):
                raise EvaluationError(f"{place}: expected a name, or keys and values")
            name = str(own.get("name"))
            yield (
                place,
                {
                    key: value.replace("{name}", name) if isinstance(value, str) else value
                    for key, value in {**group["share"], **own}.items()
                },
            )


def _data_set(where: str, values: Any) -> DataSet:
    common = {item.name for item in fields(DataSet)} - {"options"}
    if not isinstance(values, dict):
        raise EvaluationError(f"{where}: expected keys and values")
    layout = _text(f"{where}.layout", values.get("layout", ROWS))
    _check_choice(f"{where}.layout", layout, tuple(LAYOUTS))
    options = LAYOUTS[layout].options
    _check_keys(where, values, common | set(options), {"name", "path", "meta_task"})
    given = {key: value for key, value in values.items() if key in options}
    for key, value in given.items():
        if not isinstance(value, options[key]):
            raise EvaluationError(f"{where}.{key}: expected {options[key].__name__}, got {value!r}")
    texts = {key: _text(f"{where}.{key}", value) for key, value in values.items() if key in common}
    data_set = DataSet(**texts, options=given)
    if _name(f"{where}.name", data_set.name) in (*META_TASKS, *MODALITIES, *SPLITS, OVERALL):
        raise EvaluationError(f"{where}.name: {data_set.name!r} is the name of an average")
    _check_choice(f"{where}.meta_task", data_set.meta_task, tuple(META_TASKS))
    _check_choice(f"{where}.split", data_set.split, (*SPLITS, UNSPLIT))
    _check_choice(f"{where}.metric", data_set.metric, METRICS)
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
