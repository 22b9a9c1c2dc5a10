"""How inputs and rankings look to people: in a line of text, and in a notebook with thumbnails."""

import base64
import html
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import is_dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from vlm2vec.fetch import is_url
from vlm2vec.media import is_pixels

if TYPE_CHECKING:
    from vlm2vec.results import Ranking

ROWS = 20
"""How many candidates of a ranking a notebook shows."""
SIDE = 128
"""The longest side of a thumbnail in pixels."""
_CHARACTERS = 80


def summary(value: Any) -> str:
    """Returns a line that says what an input, or a part of one, is."""
    if isinstance(value, bytes):
        return f"{len(value):,} bytes"
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    if is_pixels(value):
        return f"{value.mode} picture, {value.width} x {value.height}"
    if isinstance(value, Mapping) or is_dataclass(value):
        return ", ".join(f"{name}: {summary(part)}" for name, part in _named_parts(value))
    words = str(value)
    if len(words) <= _CHARACTERS:
        return words
    if isinstance(value, os.PathLike):  # its end is what tells it from others
        return f"...{words[3 - _CHARACTERS :]}"
    return f"{words[: _CHARACTERS - 3]}..."


def ranking_html(ranking: "Ranking") -> str:
    """Returns a table of the best candidates: rank, score, picture and words.

    Pictures are shown where they are at hand and Pillow is installed; nothing is fetched.
    """
    rows = [
        f"<tr><td>{place}</td><td>{found.score:.4f}</td><td>{_thumbnails(found.candidate)}</td>"
        f"<td>{html.escape(summary(found.candidate))}</td></tr>"
        for place, found in enumerate(ranking.candidates[:ROWS], start=1)
    ]
    more = len(ranking.candidates) - ROWS
    origin = f"{ranking.model}, version {ranking.version}, space {ranking.space}"
    return (
        "<table><thead><tr><th>rank</th><th>score</th><th></th><th>candidate</th></tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
        f"<p>{f'and {more} more; ' if more > 0 else ''}{html.escape(origin)}</p>"
    )


def _named_parts(value: Any) -> Iterable[tuple[str, Any]]:
    """Yields the fields of an `Input` or a row that hold something, those of what they hold and the
    items of lists each."""
    for name, part in (value if isinstance(value, Mapping) else vars(value)).items():
        for place, item in _places(name, part):
            if is_dataclass(item) or (name == "parts" and isinstance(item, Mapping)):
                yield from ((f"{place}.{field}", held) for field, held in _named_parts(item))
            elif item is not None:
                yield place, item


def _places(name: str, part: Any) -> Iterable[tuple[str, Any]]:
    """Yields the items of a list with their places, or ``part`` alone."""
    if isinstance(part, list | tuple):
        return ((f"{name}[{index}]", item) for index, item in enumerate(part))
    return [(name, part)]


def _thumbnails(candidate: Any) -> str:
    """Returns an ``img`` for each picture of a candidate that can be read here."""
    if isinstance(candidate, str):
        return ""
    if isinstance(candidate, os.PathLike) or is_pixels(candidate):
        return _thumbnail(candidate)
    return "".join(
        _thumbnail(part) for name, part in _named_parts(candidate) if _is_picture(name, part)
    )


def _is_picture(name: str, part: Any) -> bool:
    """Tells whether a part may be a picture: its name says so, or that of a kind in ``parts`` does,
    where a path or pixels say it by themselves."""
    last = name.rpartition(".")[2]
    return last.startswith(("image", "video")) or (
        last.startswith("parts") and not isinstance(part, str)
    )


def _thumbnail(picture: Any) -> str:
    try:
        from PIL import Image
    except ImportError:
        return ""
    if isinstance(picture, Mapping) or (isinstance(picture, str) and is_url(picture)):
        return ""
    try:
        if isinstance(picture, np.ndarray):
            image = Image.fromarray(picture)
        elif isinstance(picture, bytes):
            image = Image.open(io.BytesIO(picture))
        else:
            image = picture.copy() if is_pixels(picture) else Image.open(picture)
        image.thumbnail((SIDE, SIDE))
        buffer = io.BytesIO()
        image.convert("RGB").save(buffer, "PNG")
    except (
        OSError, ValueError, TypeError, AttributeError, SyntaxError, Image.DecompressionBombError
    ):  # fmt: skip
        # What cannot be shown, a video or a file that is gone by now, still has its line of text.
        return ""
    return f'<img src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
