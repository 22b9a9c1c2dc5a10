"""What agents look for: a tool by what it is to do, and a state of a screen or a way through it."""

import ast
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from vlm2vec import Input
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.source import Row, Source, listed, rows, value
from vlm2vec_evaluation.task import PoolTask, Query
from vlm2vec_service.offline.mmeb import IMAGE

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike


def tools(source: Source) -> PoolTask:
    """Reads ToolDe: a tool is its documentation, as JSON. The option ``tools`` names the tools of
    the category; any of a query's labels is right."""

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in enumerate(rows(source.folder("tools")), 1):
            found = value(row, f"tool {number}", "documentation")
            text = json.dumps(json.loads(found) if isinstance(found, str) else found)
            yield str(value(row, f"tool {number}", "id")), source.writer.write(text=text)

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path)):
            where = f"query {number}"
            labels = listed(value(row, where, "labels", "label"))
            yield Query(
                source.writer.write(
                    str(value(row, where, "instruction")), str(value(row, where, "query"))
                ),
                {str(label["id"]): 1.0 for label in labels},
            )

    return source.task(queries, candidates)


def gui(source: Source) -> PoolTask:
    """Reads GAE: the folder has ``queries`` and ``corpus``, of which the option ``variant`` names
    the split. Texts are whole prompts with a placeholder for each picture."""
    variant = source.text("variant")

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in source.some(_split(source, "queries", variant)):
            name = str(value(row, f"query {number}", "pos_id"))
            yield name, _input(source, row, "pos", f"query {number}")
        for number, row in enumerate(_split(source, "corpus", variant), 1):
            name = str(value(row, f"candidate {number}", "cand_id"))
            yield name, _input(source, row, "cand", f"candidate {number}")

    def queries() -> Iterator[Query]:
        for number, row in source.some(_split(source, "queries", variant)):
            yield Query(_input(source, row, "qry", f"query {number}"), {str(row["pos_id"]): 1.0})

    return source.task(queries, candidates)


def _split(source: Source, part: str, variant: str) -> Iterator[Row]:
    return rows(source.path / part / f"{variant}-*.parquet")


def _input(source: Source, row: Mapping[str, Any], side: str, where: str) -> Input:
    """Puts the model's placeholder for each of MMEB's. Raises `EvaluationError` where there are
    more or fewer than pictures."""
    text = str(row.get(f"{side}_text") or "")
    names = _paths(str(row.get(f"{side}_image_path") or ""), where)
    if text.count(IMAGE) != len(names):
        raise EvaluationError(
            f"{where}: {side}_text has {text.count(IMAGE)} {IMAGE} for {len(names)} pictures"
        )
    images = [source.folder("pictures") / name for name in names]
    if source.writer.template or source.writer.by_form:
        return Input(text=text.replace(IMAGE, "").strip() or None, images=images)
    return Input(prompt=text.replace(IMAGE, source.writer.image), images=images)


def _paths(text: str, where: str) -> list[str]:
    """Reads one path, or a list of them as Python writes it."""
    if not text.startswith("["):
        return [text] if text else []
    try:
        found = ast.literal_eval(text)
    except (ValueError, SyntaxError) as error:
        raise EvaluationError(f"{where}: {text[:100]!r} is no list of paths") from error
    return [str(item) for item in found]
