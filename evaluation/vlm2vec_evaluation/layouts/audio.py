"""Audio by itself: what it is of, and the search for it by a text or with it for an image."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.layouts.pages import encoded, relevance
from vlm2vec_evaluation.layouts.recordings import recording
from vlm2vec_evaluation.layouts.source import Row, Source, rows, value
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

LABELS = (
    "label_name", "category", "class", "classname", "instrument_family_str", "major_emotion",
    "emotion", "label",
)  # fmt: skip
"""The keys under which data sets name what an audio is of."""
TEXTS = ("text", "caption", "sentence", "query")
IDS = ("query-id", "query_id", "id", "qid")
CAPTIONS = tuple(f"caption_{number}" for number in range(1, 6))
ASKS = "\nQuery: "
"""What stands between an instruction and the words of a query, in all data sets of audio."""
UNTITLED = "[AUDIO]"
"""The text beside an audio that is looked for."""


def classes(source: Source) -> PoolTask:
    """Reads audios and what they are of. The candidates are all labels of the rows.

    The rows are those of a file; of a folder those in ``processed.csv``, or else in ``data``.
    """

    def labelled() -> Iterator[Row]:
        table = source.path / "processed.csv"
        folder = table if table.is_file() else source.path / "data" / "*.parquet"
        return rows(folder if source.path.is_dir() else source.path)

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        labels = {_label(row, f"row {number}") for number, row in enumerate(labelled(), 1)}
        for label in sorted(labels):
            yield label, source.writer.write(text=label)

    def queries() -> Iterator[Query]:
        for number, row in source.some(labelled()):
            where = f"row {number}"
            audio = recording(source, row, where)
            yield Query(
                source.writer.write(source.text("instruction"), audios=[audio]),
                {_label(row, where): 1.0},
            )

    return source.task(queries, candidates, "audio")


def _label(row: Row, where: str) -> str:
    return str(value(row, where, *LABELS))


def captions(source: Source) -> PoolTask:
    """Reads Clotho: each of an audio's five captions looks for it."""

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in enumerate(rows(source.path), 1):
            name = str(value(row, f"row {number}", "file_name"))
            audio = recording(source, row, f"row {number}")
            yield name, source.writer.write(text=UNTITLED, audios=[audio])

    def asked() -> Iterator[Row]:
        for row in rows(source.path):
            for key in CAPTIONS:
                if row.get(key):
                    yield {"caption": row[key], "file_name": row["file_name"]}

    def queries() -> Iterator[Query]:
        for _, row in source.some(asked()):
            yield Query(_asking(source, row["caption"]), {str(row["file_name"]): 1.0})

    return source.task(queries, candidates, "audio")


def descriptions(source: Source) -> PoolTask:
    """Reads SoundDescs: descriptions, and of the corpus the audios that some of them needs. The one
    with the highest grade is right."""

    def graded() -> Iterator[tuple[Row, dict[str, float]]]:
        grades = relevance(rows(_part(source, "qrels")))
        for number, row in source.some(rows(_part(source, "query"))):
            yield row, grades.get(str(value(row, f"query {number}", *IDS)), {})

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        needed = {name for _, grades in graded() for name in grades}
        for number, row in enumerate(rows(_part(source, "corpus")), 1):
            if not needed:
                return  # what follows is many times as much
            where = f"corpus row {number}"
            name = str(value(row, where, "corpus-id", "id"))
            if name in needed:
                needed.remove(name)
                audio = recording(source, row, where)
                yield name, source.writer.write(text=UNTITLED, audios=[audio])

    def queries() -> Iterator[Query]:
        for row, grades in graded():
            best = max(grades, key=lambda name: grades[name], default=None)
            text = str(value(row, "a query", *TEXTS))
            yield Query(_asking(source, text), {} if best is None else {best: 1.0})

    return source.task(queries, candidates, "audio")


def speech(source: Source) -> PoolTask:
    """Reads SpeechCOCO: spoken captions that look for an image."""

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in enumerate(rows(_part(source, "corpus")), 1):
            where = f"corpus row {number}"
            image = encoded(value(row, where, "image"))
            yield (
                str(value(row, where, "corpus-id", "id")),
                source.writer.write(source.text("target"), images=[image] if image else []),
            )

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(_part(source, "query"))):
            where = f"query row {number}"
            audio = recording(source, row, where)
            yield Query(
                source.writer.write(source.text("instruction"), audios=[audio]),
                {str(value(row, where, "image_id")): 1.0},
            )

    return source.task(queries, candidates, "audio")


def _asking(source: Source, text: str) -> "InputLike":
    return source.writer.write(source.text("instruction"), text.strip(), between=ASKS)


def _part(source: Source, name: str) -> Path:
    """Finds the parquet files of a part, wherever in the folder data sets keep them."""
    places = [
        source.path / place
        for place in (f"*{name}*.parquet", f"eval/*{name}*.parquet", f"{name}/*.parquet")
    ]
    return next((one for one in places if any(one.parent.glob(one.name))), places[0])
