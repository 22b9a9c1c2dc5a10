"""What is heard at some time of a recording: events that look for their video, or for the stretch
of the recording in which they are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

import av
import numpy as np
from PIL import Image

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.audio import ASKS
from vlm2vec_evaluation.layouts.recordings import UNREADABLE, cut, length, whole
from vlm2vec_evaluation.layouts.source import FRAMES, Source, sample
from vlm2vec_evaluation.prompts import Pixels
from vlm2vec_evaluation.task import PoolTask, Query

if TYPE_CHECKING:
    from vlm2vec.audio import AudioLike
    from vlm2vec.inputs import InputLike

SAVED = 100
"""Frames of a film that upstream saves, at most; those that are embedded are chosen of these."""
SIDE = 224
"""Pixels of both sides of a frame, as upstream has it for videos that an audio looks for."""
SHORTEST = 0.05
"""Seconds of a segment that ends where it begins."""
WINDOW, STRIDE, OVERLAP, MOST = 1.0, 0.5, 0.1, 50
"""Segments without an event: their seconds, how far apart they begin, the overlap with an event
that they stay below, and how many of a recording are taken."""


def videos(source: Source) -> PoolTask:
    """Reads AVE: the audio of an event looks for the video that it is from.

    The folder has ``testSet.txt``, the films in ``AVE``, and perhaps cut audios in ``audios`` and
    frames in ``frames``; what is not there is taken from the films.
    """

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for name in sorted({name for name, _, _ in _events(source)}):
            film = _film(source, name)
            yield name, source.writer.write(source.text("target"), video=film, moving=True)

    def queries() -> Iterator[Query]:
        for _, event in source.some(_events(source)):
            audio = _heard(source, *event)
            query = source.writer.write(source.text("instruction"), audios=[audio])
            yield Query(query, {event[0]: 1.0})

    return source.task(queries, candidates, "audio")


def _events(source: Source) -> Iterator[tuple[str, float, float]]:
    """Reads the name of the video, begin and end of each event."""
    path = source.path / "testSet.txt"
    for row in _table(path, "&"):
        if row[0] != "Category":
            yield row[1], _seconds(row[3], path), _seconds(row[4], path)


def _heard(source: Source, name: str, start: float, end: float) -> "AudioLike":
    folder, film = source.path / "audios", source.path / "AVE" / f"{name}.mp4"
    if folder.is_dir():
        return folder / f"{name}_{name}_{int(start)}_{int(end)}.wav"
    return film if source.checking else cut(film, start, max(end, start + SHORTEST))


def _film(source: Source, name: str) -> Sequence[Pixels]:
    """The frames of a video that are embedded; in a check none."""
    folder, film = source.path / "frames" / name, source.path / "AVE" / f"{name}.mp4"
    saved = source.pictures(folder) if folder.is_dir() else []
    if source.checking:
        if not folder.is_dir() and not film.is_file():
            source.lacks(film, EvaluationError(""))
        return []
    if saved:
        return [_square(Image.open(path)) for path in sample(saved, FRAMES, pad=True)]
    return _from_film(film)


def _from_film(film: Path) -> list[Pixels]:
    """Decodes the frames that are embedded. Raises `EvaluationError`."""
    try:
        with av.open(str(film)) as container:
            total = sum(1 for _ in container.decode(video=0))
            if not total:
                raise EvaluationError(f"{film}: it has no frame")
            most = min(total, SAVED)
            places = sample([i * total // most for i in range(most)], FRAMES, pad=True)
            container.seek(0)
            shown = {
                place: _square(Image.fromarray(frame.to_ndarray(format="rgb24")))
                for place, frame in enumerate(container.decode(video=0))
                if place in places
            }
    except UNREADABLE as error:
        raise EvaluationError(f"{film}: {error}") from error
    return [shown[place] for place in places]


def _square(image: Image.Image) -> Pixels:
    small = image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    return np.asarray(small, np.uint8)


@dataclass(frozen=True)
class Segment:
    """A stretch of a recording, in seconds; ``label`` is what is heard there, "" for no event."""

    file: str
    start: float
    end: float
    label: str = ""

    @property
    def name(self) -> str:
        """What it is called as a candidate."""
        return f"{self.file}|{self.start:.3f}-{self.end:.3f}"


def segments(source: Source) -> PoolTask:
    """Reads TUT Sound Events 2017: a recording and a label look for a segment of the recording.

    Any segment of that label is right, or with the option ``strict`` only the one that the query is
    of. The others of the recording and some without an event are candidates.
    """
    strict = bool(source.data_set.options.get("strict", False))
    instruction = source.text("instruction")

    def candidates() -> "Iterator[tuple[str, InputLike]]":
        for path, found in _recordings(source):
            for one in found + _quiet(found, path):
                audio = path if source.checking else cut(path, one.start, one.end)
                yield one.name, source.writer.write(instruction, audios=[audio])

    def asked() -> Iterator[Query]:
        for path, found in _recordings(source):
            names = [one.name for one in found + _quiet(found, path)]
            for event in found:
                audio = path if source.checking else whole(path)
                right = [one for one in found if one.label == event.label]
                yield Query(
                    source.writer.write(instruction, event.label, audios=[audio], between=ASKS),
                    {one.name: 1.0 for one in ([event] if strict else right)},
                    names,
                )

    def queries() -> Iterator[Query]:
        for _, query in source.some(asked()):
            yield query

    return source.task(queries, candidates, "audio")


def _recordings(source: Source) -> Iterator[tuple[Path, list[Segment]]]:
    """Reads the recordings of all four folds, and the events in each."""
    found: dict[str, list[tuple[float, float, str]]] = {}
    for fold in range(1, 5):
        for row in _table(source.path / f"evaluation_setup/street_fold{fold}_evaluate.txt", "\t"):
            onset, offset = (_seconds(cell, source.path) for cell in row[2:4])
            found.setdefault(row[0], []).append((onset, offset, row[4]))
    for file, events in sorted(found.items()):
        path = source.path / file
        try:
            seconds = length(path)
        except EvaluationError as error:
            source.lacks(path, error)
            continue
        yield (
            path,
            [
                Segment(file, *_within(onset, offset, seconds), label)
                for onset, offset, label in events
            ],
        )


def _within(onset: float, offset: float, seconds: float) -> tuple[float, float]:
    """Cuts an event to the recording, and gives it a length where it has none."""
    start = max(0.0, onset)
    end = min(offset if offset > start else start + SHORTEST, seconds)
    return (start, end) if end > start else (max(0.0, seconds - SHORTEST), seconds)


def _quiet(events: Sequence[Segment], path: Path) -> list[Segment]:
    """Lists segments of the recording at ``path`` in which there is no event."""
    found: list[Segment] = []
    seconds = length(path)
    for start in (STRIDE * step for step in count()):
        one = Segment(events[0].file, start, start + WINDOW)
        if one.end > seconds or len(found) == MOST:
            return found
        if all(_overlap(one, event) < OVERLAP for event in events):
            found.append(one)
    return found


def _overlap(one: Segment, other: Segment) -> float:
    both = min(one.end, other.end) - max(one.start, other.start)
    return max(0.0, both) / (max(one.end, other.end) - min(one.start, other.start))


def _seconds(cell: str, path: Path) -> float:
    try:
        return float(cell)
    except ValueError:
        raise EvaluationError(f"{path}: {cell!r} are no seconds") from None


def _table(path: Path, separator: str) -> Iterator[list[str]]:
    """Reads the rows of a table without a header, of five columns. Raises `EvaluationError`."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise EvaluationError(f"{path}: {error}") from error
    for number, line in enumerate(lines, 1):
        cells = [cell.strip() for cell in line.split(separator)]
        if len(cells) >= 5:
            yield cells
        elif line.strip():
            raise EvaluationError(f"{path}: line {number} has {len(cells)} columns, not 5")
