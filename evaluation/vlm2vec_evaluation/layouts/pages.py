"""Pages of documents that are looked for by a text: BEIR's queries, corpus and qrels in parquet."""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.source import Row, Source, rows, value
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

SHORT = 50
"""How many characters of a page's name begin that of its file in MMEB-V3."""


def read(source: Source) -> PoolTask:
    """Reads ViDoRe, VisRAG and the like: the folder has ``queries``, ``corpus`` and ``qrels``.

    A page is a picture in its row; or, where the row has none, a file in the folder that the option
    ``pictures`` names. The option ``language`` keeps the queries of one language.
    """

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in enumerate(rows(source.path / "corpus"), 1):
            where = f"corpus row {number}"
            name = str(value(row, where, "corpus-id"))
            page = encoded(row.get("image")) or _file(source, name)
            yield name, source.writer.write(source.text("target"), images=[page])

    def queries() -> Iterator[Query]:
        grades = relevance(rows(source.path / "qrels"))
        for number, row in source.some(_of_language(source)):
            where = f"query row {number}"
            right = grades.get(str(value(row, where, "query-id")), {})
            text = str(value(row, where, "query"))
            yield Query(source.writer.write(source.text("instruction"), text), right)

    return source.task(queries, candidates)


def relevance(qrels: Iterator[Row]) -> dict[str, dict[str, float]]:
    """Collects the grade of every right candidate of each query; grades of 0 and less are left out.

    The keys are those that the data sets of MMEB-V3 have; without a score it is 1.
    """
    found: dict[str, dict[str, float]] = defaultdict(dict)
    for number, row in enumerate(qrels, 1):
        where = f"qrels row {number}"
        query = str(value(row, where, "query_id", "query-id", "qid", "q_id", "id"))
        name = str(value(row, where, "corpus_id", "corpus-id", "doc_id", "document_id", "p_id"))
        grade = row.get("label") if row.get("label") is not None else row.get("score")
        try:
            number_of = 1.0 if grade in (None, "") else float(grade)
        except ValueError:
            raise EvaluationError(f"{where}: {grade!r} is no grade") from None
        if number_of > 0:
            found[query][name] = number_of
    return found


def _of_language(source: Source) -> Iterator[Row]:
    language = source.text("language")
    for row in rows(source.path / "queries"):
        if not language or row.get("language") == language:
            yield row


def encoded(image: Any) -> bytes | None:
    """Returns the encoded picture of a parquet column, which the hub's own keep as a struct."""
    found = image.get("bytes") if isinstance(image, dict) else image
    return found if isinstance(found, bytes) else None


def _file(source: Source, name: str) -> Path:
    """Finds the picture of a page. VisRAG's are called by the begin of their name and its MD5."""
    folder = source.folder("pictures")
    digest = hashlib.md5(name.encode(), usedforsecurity=False).hexdigest()[:8]
    stem, suffix = Path(name).stem, Path(name).suffix
    short = folder / f"{stem[:SHORT]}_{digest}{suffix}"
    for path in (folder / f"{name}.png", folder / name, short):
        if path.is_file():
            return path
    source.lacks(short, EvaluationError(f"{folder}: there is no picture of page {name}"))
    return short
