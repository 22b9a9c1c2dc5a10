"""MCMR: products, each a picture and its facts, that are looked for by a text."""

from collections.abc import Iterator
from typing import TYPE_CHECKING

from vlm2vec_evaluation.layouts.source import Row, Source, listed, rows, value
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

FACTS = ("title", "description", "features", "price", "Date First Available")
"""What is written of a product, in this order."""


def read(source: Source) -> PoolTask:
    """Reads ``query.jsonl`` and ``candidates.jsonl`` in the folder."""

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in enumerate(rows(source.path / "candidates.jsonl"), 1):
            where = f"candidate {number}"
            picture = str(listed(value(row, where, "images"))[0])
            yield (
                str(value(row, where, "candidate_id")),
                source.writer.write(
                    text=_facts(row), images=[source.folder("pictures") / picture], gap="  "
                ),
            )

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path / "query.jsonl")):
            where = f"query {number}"
            right = listed(value(row, where, "pos_ids"))
            yield Query(
                source.writer.write(source.text("instruction"), str(value(row, where, "query"))),
                {str(name): 1.0 for name in right},
            )

    return source.task(queries, candidates)


def _facts(row: Row) -> str:
    return "\n".join(f"{key}: {row[key]}" for key in FACTS if row.get(key))
