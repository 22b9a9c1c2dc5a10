"""Picks the queries that a version answers worst, and shows what it found instead."""

import base64
import io
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from vlm2vec import Samples
from vlm2vec_evaluation.evaluation import Ranked
from vlm2vec_service.preprocess.audio import measure_audio, raw_audio
from vlm2vec_service.preprocess.resample import RATE
from vlm2vec_service.settings import Limits

if TYPE_CHECKING:
    from vlm2vec.inputs import InputLike

COUNT = 3
"""How many queries of a data set are shown."""
FOUND = 3
"""How many of the candidates that were found."""
SIDE = 128
"""Pixels of the longer side of a thumbnail."""
SECONDS = 3
"""How much of an audio can be heard."""
MOST_TEXT = 300
"""Characters of a text that are shown."""


@dataclass(frozen=True)
class Shown:
    """An input as a page shows it: its words, and as ``data:`` URIs thumbnails and the begin of
    audios."""

    text: str
    pictures: tuple[str, ...] = ()
    audios: tuple[str, ...] = ()


@dataclass(frozen=True)
class Example:
    """A query, what was found for it, the best first and with scores, and what is right."""

    query: Shown
    score: float
    found: tuple[tuple[float, Shown], ...]
    right: Shown | None


def worst(ranked: Ranked) -> list[Example]:
    """Picks the `COUNT` queries with the lowest scores, of equal ones those whose right candidate
    is furthest down. Reads the data set once more, for their inputs."""
    each = ranked.scores.each
    best = [ranking.ranks.min(initial=1 << 40) for ranking in ranked.rankings]
    order = sorted(range(len(each)), key=lambda number: (each[number], -best[number]))
    chosen = [number for number in order[:COUNT] if each[number] < 1]
    if not chosen:
        return []
    rows, rankings = ranked.rows, ranked.rankings
    places = {int(place) for i in chosen for place in rankings[i].top[:FOUND]}
    places |= {int(rows[i].right[0]) for i in chosen if len(rows[i].right)}
    queries, candidates = ranked.reading.again(set(chosen), places)
    return [
        Example(
            show(queries[i]), float(each[i]),
            tuple(
                (float(score), show(candidates[int(place)]))
                for place, score in zip(
                    rankings[i].top[:FOUND], rankings[i].scores[:FOUND], strict=True
                )
            ),
            show(candidates[int(rows[i].right[0])]) if len(rows[i].right) else None,
        )
        for i in chosen
    ]  # fmt: skip


def show(item: "InputLike") -> Shown:
    """Makes an input's words and thumbnails, of a video that of its middle frame, and what can be
    heard of its audios."""
    if isinstance(item, str):
        return Shown(item[:MOST_TEXT])
    if isinstance(item, Path):
        return Shown("", _thumbnails([item]))
    words = [getattr(item, key, None) for key in ("prompt", "instruction", "text")]
    media = list(getattr(item, "images", ()))
    video = getattr(item, "video", None)
    if isinstance(video, Sequence) and not isinstance(video, str | bytes):
        media.append(video[len(video) // 2])
    audios = getattr(item, "audios", ())
    return Shown(
        " ".join(word for word in words if word)[:MOST_TEXT], _thumbnails(media),
        tuple(_heard(one) for one in audios if isinstance(one, Path | bytes | Samples)),
    )  # fmt: skip


def _thumbnails(media: Sequence[Any]) -> tuple[str, ...]:
    found = []
    for one in media:
        if isinstance(one, np.ndarray):
            picture = Image.fromarray(one)
        elif isinstance(one, bytes):
            picture = Image.open(io.BytesIO(one))
        elif isinstance(one, Path):
            picture = Image.open(one)
        else:
            continue
        small = picture.convert("RGB")
        small.thumbnail((SIDE, SIDE))
        file = io.BytesIO()
        small.save(file, "JPEG", quality=70)
        found.append("data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode())
    return tuple(found)


def _heard(audio: Path | bytes | Samples) -> str:
    """Makes a WAV of the first `SECONDS`, mixed to one channel, in 16 bits."""
    limits = Limits(max_audio_bytes=1 << 30)
    if isinstance(audio, Samples):
        scale = 1 << 15 if audio.array.dtype == np.int16 else 1
        given = (audio.array / scale).astype(np.float32).reshape(len(audio.array), -1)
        begin = raw_audio(given, audio.rate, limits).samples(SECONDS)
    else:
        data = audio if isinstance(audio, bytes) else audio.read_bytes()
        begin = measure_audio(data, limits).samples(SECONDS)
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((1, 2, RATE, 0, "NONE", ""))
        out.writeframes((begin.clip(-1, 1) * 32767).astype("<i2").tobytes())
    return "data:audio/wav;base64," + base64.b64encode(file.getvalue()).decode()
