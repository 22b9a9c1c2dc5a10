"""Videos as folders of frames: their classes, and the search for them by a caption."""

import json
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.layouts.source import Source, listed, rows, value
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike


def classes(source: Source) -> PoolTask:
    """Reads videos and what they show, as Kinetics-700 has it.

    Rows have ``video_id`` and ``pos_text``. The candidates are the labels that the option
    ``labels`` names and those of the rows; or each row's own, in the key that the option
    ``choices`` names.
    """
    own = source.text("choices")

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for label in labels(source.text("labels")):
            yield label, source.writer.write(text=label)
        for number, row in source.some(rows(source.path)):
            where = f"row {number}"
            for label in listed(value(row, where, own or "pos_text")):
                yield label, source.writer.write(text=label)

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path)):
            video = source.frames(source.folder("frames") / value(row, f"row {number}", "video_id"))
            yield Query(
                source.writer.write(source.text("instruction"), video=video),
                {row["pos_text"]: 1.0},
                listed(row[own]) if own else None,
            )

    return source.task(queries, candidates)


def search(source: Source) -> PoolTask:
    """Reads videos that are looked for by a caption, among all of the data set.

    The options ``id`` and ``caption`` name the keys of a row; of several captions the first is the
    query. A video's frames are in the folder of its id, less what its file is called by.
    """
    id_key, caption_key = source.text("id"), source.text("caption")

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in source.some(rows(source.path)):
            name = Path(str(value(row, f"row {number}", id_key))).stem
            video = source.frames(source.folder("frames") / name)
            yield name, source.writer.write(source.text("target"), video=video)

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path)):
            where = f"row {number}"
            caption = listed(value(row, where, caption_key))[0]
            name = Path(str(value(row, where, id_key))).stem
            yield Query(source.writer.write(source.text("instruction"), caption), {name: 1.0})

    return source.task(queries, candidates)


def labels(name: str) -> list[str]:
    """Returns the labels of a data set that come with this package; of none, no label."""
    if not name:
        return []
    text = (resources.files("vlm2vec_evaluation") / "layouts" / "video_labels.json").read_text()
    found: list[str] = json.loads(text)[name]
    return found
