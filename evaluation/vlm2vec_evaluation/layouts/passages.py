"""Texts that are looked for by a text: BEIR's files in every spelling that MMEB-V3 has."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.pages import relevance
from vlm2vec_evaluation.layouts.source import Row, Source, listed, rows, value
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

DOCUMENT_IDS = ("_id", "id", "doc_id", "document_id", "corpus-id")
QUERY_IDS = ("_id", "id", "qid", "query_id", "query-id")
QUERY_TEXTS = ("text", "query", "query_content", "short_query")
QRELS = ("qrels_og", "qrels")


def read(source: Source) -> PoolTask:
    """Reads a folder with queries, a corpus and qrels, each a file or a folder.

    The option ``instruction`` names the key of a query's own instruction, which stands before its
    text.
    """
    instruction = source.text("instruction")

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for name, text in documents(_find(source.path, "corpus")):
            yield name, source.writer.write(text=text)

    def queries() -> Iterator[Query]:
        grades = relevance(rows(_find(source.path, *QRELS)))
        for number, row in source.some(rows(_find(source.path, "queries", "query"))):
            where = f"query {number}"
            own = str(value(row, where, instruction)) if instruction else ""
            text = str(value(row, where, *QUERY_TEXTS))
            right = grades.get(str(value(row, where, *QUERY_IDS)), {})
            yield Query(source.writer.write(own, text), right)

    return source.task(queries, candidates)


def bright(source: Source) -> PoolTask:
    """Reads BRIGHT: examples with ``gold_ids``, and the documents that the option ``documents``
    names. What an example excludes is ranked with the others, as MMEB-V3 does."""

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for name, text in documents(source.folder("documents")):
            yield name, source.writer.write(text=text)

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path)):
            right = listed(value(row, f"example {number}", "gold_ids"))
            text = str(value(row, f"example {number}", "query"))
            yield Query(source.writer.write(text=text), {str(name): 1.0 for name in right})

    return source.task(queries, candidates)


def memories(source: Source) -> PoolTask:
    """Reads a tree of LMEB: in every folder that has ``queries.jsonl`` a task of its own, all in
    one pool. Its corpus is the nearest up the tree, and its ids are told from the others' by its
    place. The option ``instructions`` names the file of their instructions."""
    path = source.path

    def parts() -> Iterator[tuple[str, Path]]:
        for file in sorted(path.rglob("queries.jsonl")):
            yield str(file.parent.relative_to(path)), file.parent

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for part, folder in parts():
            for name, text in documents(_above(folder, path)):
                yield f"{part}::{name}", source.writer.write(text=text)

    def rows_of_queries() -> Iterator[tuple[str, Row, dict[str, float]]]:
        for part, folder in parts():
            grades = relevance(rows(_find(folder, "qrels")))
            for row in rows(folder / "queries.jsonl"):
                name = str(value(row, f"{part}: a query", *QUERY_IDS))
                yield part, row, {f"{part}::{key}": one for key, one in grades[name].items()}

    def queries() -> Iterator[Query]:
        asked = _instructions(source.folder("instructions"), path.name)
        for number, (part, row, right) in enumerate(rows_of_queries(), 1):
            if source.limit and number > source.limit:
                return
            text = str(value(row, f"{part}: query {number}", *QUERY_TEXTS))
            yield Query(source.writer.write(asked.get(part, asked[""]), text), right)

    return source.task(queries, candidates)


def documents(path: Path) -> Iterator[tuple[str, str]]:
    """Reads the id and the text of each document: its title, a line break, and its words. Empty
    ones are left out."""
    for number, row in enumerate(rows(path), 1):
        name = str(value(row, f"document {number}", *DOCUMENT_IDS))
        words = row.get("text") or row.get("content") or ""
        if text := "\n".join(part for part in (row.get("title") or "", words) if part.strip()):
            yield name, text


def _find(folder: Path, *names: str) -> Path:
    """Finds one of ``names`` in ``folder``: a file of any kind of rows, or a folder."""
    for name in names:
        if (folder / name).is_dir():
            return folder / name
        for suffix in (".jsonl", ".tsv", ".parquet", ".json"):
            if (folder / f"{name}{suffix}").is_file():
                return folder / f"{name}{suffix}"
    raise EvaluationError(f"{folder}: there is no {' or '.join(names)}")


def _above(folder: Path, top: Path) -> Path:
    for place in (folder, *folder.parents):
        if (place / "corpus.jsonl").is_file():
            return place / "corpus.jsonl"
        if place == top:
            break
    raise EvaluationError(f"{folder}: there is no corpus.jsonl there or above it")


def _instructions(file: Path, task: str) -> dict[str, str]:
    """Reads the instruction of each part of a task; "" has the one for parts without any."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{file}: {error}") from error
    own = found.get(task, found) if isinstance(found, dict) else found
    if isinstance(own, str):
        return {"": own}
    if not isinstance(own, dict):
        raise EvaluationError(f"{file}: expected the instructions of {task}")
    return {"": "", **{str(key): str(text) for key, text in own.items()}}
