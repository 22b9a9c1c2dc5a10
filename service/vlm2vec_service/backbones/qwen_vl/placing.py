"""Where the tokens of media stand in an input, and at which positions."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Kind, Media, in_order

Grid = tuple[int, int, int]
"""Tokens in time, height and width."""


@dataclass(frozen=True)
class Shown:
    """An image, film or audio that is measured: ``values`` decodes what `Media` has of it.

    ``grid`` is that of each of its ``places``, the placeholders that stand for it one after the
    other, among which the frames of a film are divided. ``times`` has the position of each step in
    time, from 0; without it they are counted. ``stamps`` has the seconds at which each place is
    shown, for a family that writes them. ``pictures`` are those that ``values`` decodes.
    """

    kind: Kind
    grid: Grid
    values: Callable[[], npt.NDArray[Any]]
    places: int = 1
    times: Sequence[int] = ()
    stamps: Sequence[float] = ()
    pictures: Pictures | None = None

    @property
    def tokens(self) -> int:
        """Counts the tokens of one of its places."""
        return math.prod(self.grid)


@dataclass(frozen=True)
class Span:
    """The tokens from ``start`` on that stand for the part ``index`` of ``shown``; ``spatial`` says
    whether they have the positions of a grid."""

    start: int
    shown: Shown
    index: int
    spatial: bool

    @property
    def end(self) -> int:
        """The place behind its last token."""
        return self.start + self.shown.tokens


def placed(
    ids: Sequence[int], shown: dict[int, list[Shown]], opening: int | None
) -> tuple[list[int], list[Span]]:
    """Repeats the ids of placeholders in ``ids`` as often as there are tokens of what they stand
    for, the next of ``shown`` by their id; and finds those tokens. Images and films behind the id
    ``opening`` are spatial.
    """
    places = {
        token: ((one, index) for one in media for index in range(one.places))
        for token, media in shown.items()
    }
    token_ids: list[int] = []
    spans: list[Span] = []
    previous = None
    for token in ids:
        count = 1
        if token in places:
            one, index = next(places[token])
            spatial = opening is not None and previous == opening and one.kind != "audio"
            spans.append(Span(len(token_ids), one, index, spatial))
            count = one.tokens
        token_ids += [token] * count
        previous = token
    return token_ids, spans


def decoded(spans: Sequence[Span]) -> tuple[Media, ...]:
    """Decodes what stands at ``spans``, one medium after the other. Raises `InvalidInputError` for
    one that is damaged."""
    media = []
    for _, run in itertools.groupby(spans, key=lambda span: id(span.shown)):
        parts = list(run)
        shown = parts[0].shown
        values = shown.values()
        share = math.ceil(len(values) / shown.places)
        whole = shown.pictures if shown.places == 1 else None
        for span in parts:
            part = values[span.index * share : (span.index + 1) * share]
            media.append(Media.of(shown.kind, part, span.start, shown.tokens, whole))
    return tuple(media)


def positions(length: int, spans: Sequence[Span]) -> npt.NDArray[np.int32]:
    """Makes M-RoPE's positions ``(3, length)`` for media at ``spans``.

    Inside a spatial span a token has its place in the grid; outside the tokens are counted, and
    counting goes on after a span at one more than the largest position in it.
    """
    spatial = [span for span in spans if span.spatial]
    if not spatial:
        return in_order(length)
    pieces: list[npt.NDArray[np.int_]] = []
    done = position = 0
    for span in spatial:
        count = span.start - done
        pieces.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
        position += count
        places = np.indices(span.shown.grid).reshape(3, -1)
        if span.shown.times:
            places[0] = np.asarray(span.shown.times)[places[0]]
        pieces.append(places + position)
        done = span.end
        position += int(places.max()) + 1
    count = length - done
    pieces.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
    return np.concatenate(pieces, axis=1).astype(np.int32)
