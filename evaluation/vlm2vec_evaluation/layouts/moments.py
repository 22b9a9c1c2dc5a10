"""Clips of a video that are looked for by a description.

A query's folder of frames has its clips beside it, each a folder; what is right is told by a name
or by the row.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.source import (
    Row,
    Source,
    listed,
    natural,
    rows,
    value,
)
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec import Input
    from vlm2vec.inputs import InputLike

MOST_CLIPS = 10
"""How many clips of a video are candidates."""
ASKED = {
    "": "Find the clip that corresponds to the given text:",
    ".jpg": "Select the video clip that aligns with the given text and image:",
    ".mp4": "Find the clip that corresponds to the given sentence and video segment:",
}
"""MomentSeeker's instructions, by what is shown with a query."""


def clips(source: Source) -> PoolTask:
    """Reads QVHighlights or Charades-STA as MMEB cut them: a folder a video, in which ``query`` has
    the frames of the whole and each other folder those of a clip. ``positive`` begins the right
    ones' names."""

    def folder(row: Row, where: str) -> Path:
        return source.folder("frames") / Path(str(value(row, where, "video_path"))).stem

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for number, row in source.some(rows(source.path)):
            for clip in _clips(source, folder(row, f"row {number}")):
                yield (
                    _name(clip),
                    source.writer.write(source.text("target"), video=source.frames(clip)),
                )

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path)):
            place = folder(row, f"row {number}")
            found = _clips(source, place)
            right = {_name(clip): 1.0 for clip in found if clip.name.startswith("positive")}
            query = source.writer.write(
                source.text("instruction"), str(value(row, f"row {number}", "query")),
                video=source.frames(place / "query"),
            )  # fmt: skip
            yield Query(query, right, [_name(clip) for clip in found])

    return source.task(queries, candidates)


def _clips(source: Source, folder: Path) -> list[Path]:
    try:
        found = [path for path in folder.iterdir() if path.is_dir() and path.name != "query"]
    except OSError as error:
        source.lacks(folder, EvaluationError(f"{folder}: {error.strerror}"))
        return []
    # What is right is among those that are kept, however many there are.
    found.sort(key=lambda path: (not path.name.startswith("positive"), natural(path)))
    return found[:MOST_CLIPS]


def _name(clip: Path) -> str:
    return f"{clip.parent.name}/{clip.name}"


def moments(source: Source) -> PoolTask:
    """Reads MomentSeeker: clips that are looked for by a text, alone or with a picture or a video.

    All saved frames are embedded. A path's folder is called as the path, with ``_`` for ``/``.
    """
    frames = source.folder("frames")

    def clip(path: str) -> Path:
        return frames / path.replace("/", "_").removesuffix(".mp4")

    def names(row: Row, key: str) -> list[str]:
        return [str(item["output_path"]) for item in listed(row.get(key) or [])]

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for _, row in source.some(rows(source.path)):
            for name in names(row, "positive_frames") + names(row, "negative_frames"):
                yield (
                    name,
                    source.writer.write(source.text("target"), video=source.pictures(clip(name))),
                )

    def query(row: Row, where: str) -> "Input":
        shown = str(row.get("input_frames") or "")
        kind = Path(shown).suffix
        if kind not in ASKED:
            raise EvaluationError(f"{where}: input_frames: {shown!r} is neither .jpg nor .mp4")
        return source.writer.write(
            ASKED[kind], str(value(row, where, "query")),
            images=[frames / f"query_{shown}"] if kind == ".jpg" else [],
            video=source.pictures(clip(shown)) if kind == ".mp4" else [],
        )  # fmt: skip

    def queries() -> Iterator[Query]:
        for number, row in source.some(rows(source.path)):
            right = names(row, "positive_frames")
            yield Query(
                query(row, f"row {number}"), dict.fromkeys(right, 1.0),
                right + names(row, "negative_frames"),
            )  # fmt: skip

    return source.task(queries, candidates)
