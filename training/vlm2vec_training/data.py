"""Training data in MMEB-train's format: subsets of rows in parquet or JSON lines, listed in YAML.

Keys of a row: ``qry`` (or ``qry_text``), ``qry_image_path``, ``pos_text``, ``pos_image_path``, and
for hard negatives ``neg_text``, ``neg_image_path``, each a value or a list. MMEB-train's texts are
whole prompts, with ``<|image_1|>`` for the image. With ``qry_inst`` (and ``pos_inst``,
``neg_inst``) a text is no prompt, and the adapter's prompt template joins both, as the service
does. ``qry_audio_path``, ``pos_audio_path`` and ``neg_audio_path`` are ours; in a whole prompt the
model's own placeholder stands for an audio.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from vlm2vec_service.offline.rows import RowError, RowFile, find_files
from vlm2vec_training.errors import DataError

MEDIA = ("image", "audio")
COLUMNS = {"qry"} | {
    f"{role}_{what}"
    for role in ("qry", "pos", "neg")
    for what in ("text", "inst", *(f"{kind}_path" for kind in MEDIA))
}


@dataclass(frozen=True)
class Side:
    """A query or a target as the data have it; ``image`` and ``audio`` are paths, or empty."""

    text: str
    image: str = ""
    audio: str = ""
    instruction: str | None = None

    @property
    def content(self) -> int:
        """A number of 63 bits that is equal for sides of equal contents."""
        digest = hashlib.blake2b(repr(self).encode(), digest_size=8).digest()
        return int.from_bytes(digest) >> 1


@dataclass(frozen=True)
class Example:
    """A row of the data: a query, its target, and wrong targets that are hard to tell from it."""

    query: Side
    positive: Side
    negatives: tuple[Side, ...]


@dataclass(frozen=True)
class SubsetSettings:
    """What the YAML file says of one subset. Paths are relative to the file's folder."""

    path: str
    """A .parquet or .jsonl file, a folder of such, or a pattern with ``*`` in the file's name."""
    image_dir: str = ""
    """Where the rows' paths start; the file's folder if not given."""
    weight: float = 1.0
    """How often a sub-batch is taken from this subset, compared with the others."""
    num_sample_per_subset: int = 0
    """Only so many rows, from the start; 0 is all."""


class Subset:
    """The rows of one subset in memory, by index; they are parsed when they are asked for.

    Raises `DataError` where there are none.
    """

    def __init__(self, name: str, settings: SubsetSettings, folder: Path) -> None:
        self.name = name
        self.weight = settings.weight
        self.images = folder / (settings.image_dir or ".")
        self.path = folder / settings.path
        try:
            self._files = [RowFile(file, COLUMNS) for file in find_files(self.path)]
        except RowError as error:
            raise DataError(f"subset {name}: {error}") from error
        total = sum(len(file) for file in self._files)
        self._length = min(total, settings.num_sample_per_subset or total)
        if not self._length:
            raise DataError(f"subset {name}: {self.path} has no rows")

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> Example:
        """Reads one row. Raises `DataError` that names the file, the line and the field."""
        file, at = self._find(index)
        try:
            row = file[at]
        except RowError as error:
            raise DataError(f"subset {self.name}: {error}") from error
        return _example(row, self.where(index))

    def where(self, index: int) -> str:
        """Says where a row stands, for a message: the subset, the file and the line."""
        file, at = self._find(index)
        return f"subset {self.name}: {file.where(at)}"

    def _find(self, index: int) -> tuple[RowFile, int]:
        for file in self._files:
            if index < len(file):
                return file, index
            index -= len(file)
        raise IndexError(index)

    @property
    def digest(self) -> str:
        """A digest of the files' bytes, in 16 hexadecimal digits."""
        digest = hashlib.blake2b(digest_size=8)
        for rows in self._files:
            with rows.path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
        return digest.hexdigest()


def read_data(path: Path) -> list[Subset]:
    """Opens the subsets that the YAML file ``path`` lists: names with `SubsetSettings`.

    Upstream's keys ``dataset_parser`` (which must be mmeb), ``dataset_name``, ``subset_name`` and
    ``dataset_split`` may stand for ``path``: the folder ``dataset_name/subset_name`` and in it the
    files of that split. Raises `DataError`.
    """
    try:
        values = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise DataError(f"{path}: {error}") from error
    if not isinstance(values, dict) or not values:
        raise DataError(f"{path}: expected a mapping of subsets, each with a path")
    return [
        Subset(str(name), _settings(f"{path}: {name}", row), path.parent)
        for name, row in values.items()
    ]


def _settings(where: str, row: Any) -> SubsetSettings:
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a mapping with a path")
    row = dict(row)
    if (parser := row.pop("dataset_parser", "mmeb")) != "mmeb":
        raise DataError(f"{where}: dataset_parser: {parser!r} is not known; only mmeb is")
    name, subset = row.pop("dataset_name", None), row.pop("subset_name", "")
    split = row.pop("dataset_split", None)
    if name is not None:
        pattern = f"/{split}-*.parquet" if split else ""
        row.setdefault("path", f"{name}/{subset}{pattern}")
    known = {item.name: item.type for item in fields(SubsetSettings)}
    if unknown := sorted(set(row) - set(known)):
        raise DataError(f"{where}: unknown key {', '.join(unknown)}; known are {', '.join(known)}")
    if not isinstance(row.get("path"), str):
        raise DataError(f"{where}: path is missing")
    for key in ("weight", "num_sample_per_subset"):
        value = row.get(key, 1)
        if not isinstance(value, int | float) or value < 0 or (key == "weight" and not value):
            raise DataError(f"{where}: {key}: expected a positive number, got {value!r}")
    return SubsetSettings(**row)


def _example(row: Mapping[str, Any], where: str) -> Example:
    text = "qry" if row.get("qry") is not None else "qry_text"
    query = _side(row, where, "qry", text)
    positive = _side(row, where, "pos", "pos_text")
    columns = {key: _list(row, where, key) for key in ("neg_text", *_paths("neg"))}
    counts = {key: len(items) for key, items in columns.items() if items}
    if len({*counts.values()}) > 1:
        said = " and ".join(f"{key} has {count}" for key, count in counts.items())
        raise DataError(f"{where}: {said}: as many negatives are needed")
    count = max(counts.values(), default=0)
    instruction = _text(row, where, "neg_inst")
    sides = zip(*(items or [""] * count for items in columns.values()), strict=True)
    negatives = tuple(
        Side(text, image, audio, instruction)
        for text, image, audio in sides
        if text or image or audio
    )
    return Example(query, positive, negatives)


def _paths(role: str) -> list[str]:
    return [f"{role}_{kind}_path" for kind in MEDIA]


def _side(row: Mapping[str, Any], where: str, role: str, text: str) -> Side:
    keys = (text, *_paths(role))
    words, image, audio = (_text(row, where, key) or "" for key in keys)
    if not (words or image or audio):
        raise DataError(f"{where}: {', '.join(keys)} are all empty")
    return Side(words, image, audio, _text(row, where, f"{role}_inst"))


def _text(row: Mapping[str, Any], where: str, key: str) -> str | None:
    value = row.get(key)
    if isinstance(value, list) and len(value) == 1:
        (value,) = value
    if not isinstance(value, str | None):
        raise DataError(f"{where}: {key}: expected a string, got {type(value).__name__}")
    return value


def _list(row: Mapping[str, Any], where: str, key: str) -> list[str]:
    value = row.get(key)
    items = value if isinstance(value, list) else [value]
    if not all(isinstance(item, str | None) for item in items):
        raise DataError(f"{where}: {key}: expected a string or a list of strings")
    return [] if items == [None] else [item or "" for item in items]
