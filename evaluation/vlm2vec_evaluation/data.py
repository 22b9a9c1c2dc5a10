"""Reads tasks from rows in the format of MMEB-eval, which are parquet or JSON lines.

Keys of a row: ``qry_inst``, ``qry_text``, ``qry_img_path``; ``tgt_inst``; ``tgt_text`` and
``tgt_img_path``, lists of the candidates, the right one first. Of our own, ``qry_audio_path`` and
``tgt_audio_path``; and ``tgt_right``, how many of the first are right where it is not one. Without
``qry_inst`` the texts are whole prompts.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from vlm2vec import Input
from vlm2vec_evaluation import prompts
from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_evaluation.layouts.source import Source
from vlm2vec_evaluation.layouts.table import LAYOUTS
from vlm2vec_evaluation.suite import DataSet, Suite
from vlm2vec_evaluation.task import PoolTask, Record, Task
from vlm2vec_service.offline import mmeb
from vlm2vec_service.offline.rows import RowError, find_files, stream_rows

KEYS = ("qry_text", "tgt_text")
"""The keys that every row has to have."""


def read_task(
    suite: Suite,
    data_set: DataSet,
    backbone: str,
    limit: int | None = None,
    missing: list[Path] | None = None,
) -> Task | PoolTask:
    """Reads a data set, of at most ``limit`` queries, with prompts for ``backbone``; ``missing`` is
    that of `Source`.

    Raises `EvaluationError` that names the data set, the row and the key at fault, and
    `UnsupportedError` where the backbone cannot take what it has. A `PoolTask` raises them when it
    is gone through.
    """
    return LAYOUTS[data_set.layout].read(Source(suite, data_set, backbone, limit, missing))


def read(source: Source) -> Task | PoolTask:
    """Reads a data set in the layout of MMEB-eval."""
    suite, data_set, backbone, limit = (
        source.suite,
        source.data_set,
        source.backbone,
        source.limit,
    )
    path = suite.path(data_set)
    reader = _RowReader(suite, data_set, prompts.placeholder(backbone), source.writer)
    records = []
    for number, row in enumerate(islice(_rows(path), limit), 1):
        try:
            records.append(reader.record(row))
        except UnsupportedError:
            return source.task(list, list, "audio")
        except EvaluationError as error:
            raise EvaluationError(
                f"data set {data_set.name}: {path}: row {number}: {error}"
            ) from None
    if not records:
        raise EvaluationError(f"data set {data_set.name}: {path} has no rows")
    return Task(data_set.name, data_set.meta_task, records, data_set.split)


class _Files(NamedTuple):
    """The paths of an input's media, "" for none."""

    image: str = ""
    audio: str = ""


@dataclass
class _RowReader:
    """Rows to records; equal texts and images become one input, so that each is hashed once."""

    suite: Suite
    data_set: DataSet
    image: str
    writer: prompts.Writer
    seen: dict[tuple[str, str, str, _Files], Input] = field(default_factory=dict)

    def record(self, row: dict[str, Any]) -> Record:
        if missing := [key for key in KEYS if row.get(key) is None]:
            raise EvaluationError(f"{', '.join(missing)} is missing")
        texts, media = _candidates(row)
        shown = _Files(_text(row, "qry_img_path"), _text(row, "qry_audio_path"))
        with_instructions = row.get("qry_inst") is not None or self.overridden
        instruction = self.data_set.query_instruction or _text(row, "qry_inst")
        text = _text(row, "qry_text")
        if self.suite.prompts == "template" or (self.writer.by_form and with_instructions):
            query = self._by_template(instruction, text, shown)
        elif with_instructions:
            newline = self.data_set.meta_task in ("vqa", "grounding") or any(
                files.image for files in media
            )
            prompt = prompts.query(
                instruction, text, self._placeholder(shown.image),
                newline=newline, suffix=self.data_set.query_suffix,
            )  # fmt: skip
            query = self._input(prompt, shown)
        else:
            query = self._input(mmeb.prompt_of(text, self._placeholder(shown.image)), shown)
        form = self._form(with_instructions, not shown.image)
        own = self.data_set.target_instruction or _text(row, "tgt_inst")
        candidates = [
            self._candidate(form, own, text, files)
            for text, files in zip(texts, media, strict=True)
        ]
        right = row.get("tgt_right") or 1
        if not isinstance(right, int) or not 1 <= right <= len(candidates):
            raise EvaluationError(f"tgt_right: expected a number from 1 to {len(candidates)}")
        return Record(query, candidates, tuple(range(right)))

    @property
    def overridden(self) -> bool:
        """Whether the suite gives instructions, so that the texts are taken to have none."""
        return bool(self.data_set.query_instruction or self.data_set.target_instruction)

    def _form(self, with_instructions: bool, for_text: bool) -> str:
        if self.suite.prompts == "template":
            return "template"
        if self.writer.by_form and with_instructions:
            return "by form"
        return ("for text" if for_text else "for image") if with_instructions else "whole"

    def _candidate(self, form: str, instruction: str, text: str, files: _Files) -> Input:
        key = form, instruction, text, files
        if key not in self.seen:
            self.seen[key] = self._new_candidate(*key)
        return self.seen[key]

    def _new_candidate(self, form: str, instruction: str, text: str, files: _Files) -> Input:
        if form == "by form" and not (any(files) or self.data_set.target_instruction):
            instruction = ""  # of a text alone upstream takes no more than that
        if form in ("template", "by form"):
            return self._by_template(instruction, text, files)
        placeholder = self._placeholder(files.image)
        if form == "whole":
            return self._input(mmeb.prompt_of(text, placeholder), files)
        if not files.image and self.data_set.target_instruction:
            text = f"{instruction} {text}"
        for_text = form == "for text"
        return self._input(prompts.target(instruction, text, placeholder, for_text=for_text), files)

    def _by_template(self, instruction: str, text: str, files: _Files) -> Input:
        words = [part.replace(mmeb.IMAGE, "").strip() for part in (instruction, text)]
        return self.writer.write(*words, images=self._at(files.image), audios=self._at(files.audio))

    def _input(self, prompt: str, files: _Files) -> Input:
        images, audios = self._at(files.image), self._at(files.audio)
        if self.writer.by_form or audios:
            words = prompt.replace(self.image, "")
            return self.writer.write(text=words, images=images, audios=audios)
        return Input(prompt=prompt, images=images)

    def _at(self, path: str) -> list[Path]:
        return [self.suite.root / self.suite.images / path] if path else []

    def _placeholder(self, image: str) -> str | None:
        return self.image if image else None


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    """Reads the rows at ``path``, of a folder those of its files in the order of their names."""
    try:
        files = find_files(path)
        # A data set's folder may hold a training split as well.
        for file in [file for file in files if file.name.startswith("test")] or files:
            yield from stream_rows(file)
    except RowError as error:
        raise EvaluationError(str(error)) from error


def _candidates(row: dict[str, Any]) -> tuple[list[str], list[_Files]]:
    """Reads the texts and the media of a row's candidates; one text may stand for all media."""
    texts, images, audios = (
        _list(row, key) for key in ("tgt_text", "tgt_img_path", "tgt_audio_path")
    )
    if len(texts) == 1:
        texts = texts * (len(images or audios) or 1)
    for key, paths in (("tgt_img_path", images), ("tgt_audio_path", audios)):
        if not texts or len(paths or texts) != len(texts):
            raise EvaluationError(f"tgt_text has {len(texts)} and {key} {len(paths)} candidates")
    empty = [""] * len(texts)
    return texts, list(map(_Files, images or empty, audios or empty))


def _text(row: dict[str, Any], key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str | None):
        raise EvaluationError(f"{key}: expected a string, got {type(value).__name__}")
    return value or ""


def _list(row: dict[str, Any], key: str) -> list[str]:
    value = row.get(key)
    items = [value] if isinstance(value, str) else value or []
    if not isinstance(items, list) or not all(isinstance(item, str | None) for item in items):
        raise EvaluationError(f"{key}: expected a list of strings")
    return [item or "" for item in items]
