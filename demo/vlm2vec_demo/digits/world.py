"""Draws scenes of one to three handwritten digits, those of ``handwritten.npz``.

They are the UCI test set of optical digits, 1,797 of them, 8x8, as scikit-learn's ``load_digits``
has them. Those before `TEST_FROM` train, the others are never drawn in training.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

SIDE = 112
"""The pixels of a side of a scene, which is four tokens."""
TEST_FROM = 1437
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
COLOURS = ("red", "green", "blue", "orange", "purple", "black")
INK = torch.tensor(
    [[212, 36, 40], [34, 150, 62], [38, 84, 214], [242, 140, 24], [146, 54, 182], [28, 28, 32]]
) / 255  # fmt: skip
PAPER = torch.tensor([0.965, 0.95, 0.91])
Images = npt.NDArray[np.uint8]


class Thing(NamedTuple):
    """A digit in a colour, each by its index."""

    digit: int
    colour: int


@dataclass(frozen=True)
class Scene:
    """One thing, or two or three in a row (from the left) or a column (from the top)."""

    layout: Literal["single", "row", "column"]
    things: tuple[Thing, ...]

    @property
    def places(self) -> tuple[str, ...]:
        """The place of each thing: "left", "middle", "bottom" and so on, or "" for a single one."""
        first, last = ("left", "right") if self.layout == "row" else ("top", "bottom")
        return {1: ("",), 2: (first, last), 3: (first, "middle", last)}[len(self.things)]


class Box(NamedTuple):
    """A square around a thing, in pixels."""

    x: float
    y: float
    side: float


def draw_scene(rng: random.Random, count: int | None = None) -> Scene:
    """Makes up a scene of ``count`` things, or of two or three; digits and colours all differ."""
    count = count or rng.choice((2, 2, 3))
    layout: Literal["row", "column"] = rng.choice(("row", "column"))
    digits, colours = rng.sample(range(10), count), rng.sample(range(6), count)
    things = tuple(Thing(*pair) for pair in zip(digits, colours, strict=True))
    return Scene("single" if count == 1 else layout, things)


def variants(scene: Scene, rng: random.Random) -> list[Scene]:
    """Returns ``scene`` and three scenes that are hard to tell from it.

    Of these one has the colours moved on by one, one the order turned round, and one another digit
    or colour.
    """
    things = scene.things
    moved = [
        Thing(things[(i + 1) % len(things)].digit, thing.colour) for i, thing in enumerate(things)
    ]
    changed, at = list(things), rng.randrange(len(things))
    digit, colour = things[at]
    if rng.random() < 0.5:
        digit = rng.choice([d for d in range(10) if d not in {t.digit for t in things}])
    else:
        colour = rng.choice([c for c in range(6) if c not in {t.colour for t in things}])
    changed[at] = Thing(digit, colour)
    return [scene, *(Scene(scene.layout, tuple(x)) for x in (moved, things[::-1], changed))]


@dataclass(frozen=True)
class Drawn:
    """Scenes as pictures: ``images`` are uint8 ``(scenes, 112, 112, 3)``.

    ``boxes`` has the box of each thing. ``digits`` and ``colours``, int64 ``(scenes, 16)``, are the
    digit and colour of most ink in each token's cell, and 10 and 6 where there is none.
    """

    images: Images
    boxes: list[list[Box]]
    digits: Tensor
    colours: Tensor


class DigitWorld:
    """The handwritten digits, and how scenes are drawn with them."""

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """The digit of each glyph, int64 ``(1797,)``."""
        return self._data["labels"].astype(np.int64)

    @cached_property
    def glyphs(self) -> Tensor:
        """The ink coverage of each glyph, smoothly enlarged and then sharpened.

        It is float32 ``(1797, 1, 40, 40)``, from 0 to 1.
        """
        small = torch.tensor(self._data["images"] / 16, dtype=torch.float32)[:, None]
        large = F.interpolate(F.pad(small, (1, 1, 1, 1)), size=(40, 40), mode="bicubic")
        ink = ((large.clamp(0, 1) - 0.2) / 0.45).clamp(0, 1)
        return ink * ink * (3 - 2 * ink)

    @cached_property
    def _data(self) -> dict[str, npt.NDArray[np.uint8]]:
        """``images`` ``(1797, 8, 8)``, ink from 0 to 16, and ``labels`` ``(1797,)``."""
        with np.load(Path(__file__).with_name("handwritten.npz")) as file:
            return dict(file)

    @cache  # noqa: B019 (a world lives as long as its program)
    def indices(self, digit: int, test: bool) -> npt.NDArray[np.int64]:
        """Returns the indices of the glyphs of ``digit`` that train, or with ``test`` that test."""
        found = np.flatnonzero(self.labels == digit)
        return found[(found >= TEST_FROM) == test]

    def _noise(self, count: int, rng: np.random.Generator) -> Tensor:
        return self._noises[torch.from_numpy(rng.integers(len(self._noises), size=count))]

    @cached_property
    def _noises(self) -> Tensor:
        """Pixel noise to choose from: making it anew took longer than everything else."""
        generator = torch.Generator().manual_seed(0)
        return 0.012 * torch.randn(64, 3, SIDE, SIDE, generator=generator)

    def draw(self, scenes: Sequence[Scene], rng: np.random.Generator, test: bool = False) -> Drawn:
        """Draws ``scenes`` with random glyphs, places, sizes and tilts.

        Training adds slant, width and pixel noise; with ``test`` there is none, and the glyphs are
        those that test.
        """
        count, most = len(scenes), max(len(scene.things) for scene in scenes)
        glyphs = torch.zeros(count, most, 1, 40, 40)
        places = torch.zeros(count, most, 2, 3)
        digits, colours = torch.full((count, most), 10), torch.full((count, most), 6)
        boxes = []
        for index, scene in enumerate(scenes):
            row = _layout(scene, rng)
            boxes.append(row)
            for place, (thing, box) in enumerate(zip(scene.things, row, strict=True)):
                glyph = rng.choice(self.indices(thing.digit, test))
                glyphs[index, place] = self.glyphs[glyph]
                places[index, place] = torch.from_numpy(_transform(box, rng, deform=not test))
                digits[index, place], colours[index, place] = thing.digit, thing.colour
        there = digits < 10
        ink = torch.zeros(count, most, 1, SIDE, SIDE)
        ink[there] = _sample(glyphs[there], places[there], "zeros")
        images = _to_bytes(_paint(ink, colours, rng) + (0.0 if test else self._noise(count, rng)))
        covered = F.avg_pool2d(ink.flatten(0, 1), 28).view(count, most, 16)
        amount, top = covered.max(1)
        return Drawn(
            images,
            boxes,
            digits.gather(1, top).masked_fill(amount < 0.04, 10),
            colours.gather(1, top).masked_fill(amount < 0.04, 6),
        )


def crop(images: Images, boxes: Sequence[Box], rng: np.random.Generator) -> Images:
    """Cuts one box out of each image, with a little room, and enlarges it to a scene's size."""
    places = torch.zeros(len(boxes), 2, 3)
    for place, box in zip(places, boxes, strict=True):
        place[0, 0] = place[1, 1] = box.side / SIDE * rng.uniform(1.0, 1.2)
        place[0, 2] = (box.x + rng.uniform(-1.5, 1.5)) * 2 / SIDE - 1
        place[1, 2] = (box.y + rng.uniform(-1.5, 1.5)) * 2 / SIDE - 1
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2) / 255
    return _to_bytes(_sample(pixels, places, "border"))


def _layout(scene: Scene, rng: np.random.Generator) -> list[Box]:
    across = 2 * rng.uniform(-6, 6)
    if scene.layout == "single":
        side = rng.uniform(34, 104)
        margin = min(side / 2 + 2, 55)
        return [Box(rng.uniform(margin, SIDE - margin), rng.uniform(margin, SIDE - margin), side)]
    first, step, jitter, sides = (
        (29, 54, 4, (36, 48)) if len(scene.things) == 2 else (19.5, 36.5, 1.5, (31, 36))
    )
    boxes = []
    for index in range(len(scene.things)):
        along = first + step * index + rng.uniform(-jitter, jitter)
        off = SIDE / 2 + across + rng.uniform(-4, 4)
        x, y = (along, off) if scene.layout == "row" else (off, along)
        boxes.append(Box(x, y, rng.uniform(*sides)))
    return boxes


def _transform(box: Box, rng: np.random.Generator, deform: bool) -> npt.NDArray[np.float64]:
    """Where in the glyph each pixel of the scene lies: ``(2, 3)`` for `F.affine_grid`."""
    angle = np.deg2rad(rng.uniform(-14, 14))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    if deform:
        turn = np.array([[rng.uniform(0.92, 1.12), rng.uniform(-0.12, 0.12)], [0, 1]]) @ turn
    half = 0.625 * box.side
    centre = np.array([SIDE / 2 - box.x, SIDE / 2 - box.y]) / half
    return np.column_stack((turn * SIDE / 2 / half, turn @ centre))


def _sample(pixels: Tensor, places: Tensor, padding: str) -> Tensor:
    centres = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
    a, b, c = places[..., None, None].unbind(2)
    # As `F.affine_grid`, whose matrix product is ten times as slow.
    grid = (a * centres + b * centres[:, None] + c).permute(0, 2, 3, 1)
    return F.grid_sample(pixels, grid, padding_mode=padding, align_corners=False)


def _paint(ink: Tensor, colours: Tensor, rng: np.random.Generator) -> Tensor:
    """Paper and ink of slightly random tint, the ink laid on by coverage."""

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32))

    count, most = colours.shape
    paper = PAPER.view(1, 3, 1, 1) + 0.015 * normal(count, 1, 1, 1) + 0.012 * normal(count, 3, 1, 1)
    tint = INK[colours.clamp(max=5)][..., None, None] + 0.035 * normal(count, most, 3, 1, 1)
    pixels = paper.repeat(1, 1, SIDE, SIDE)
    for index in range(most):
        rows = colours[:, index] < 6
        pixels[rows] = torch.lerp(pixels[rows], tint[rows, index], ink[rows, index])
    return pixels


def _to_bytes(pixels: Tensor) -> Images:
    whole = (pixels * 255).round().clamp(0, 255).to(torch.uint8)
    return np.ascontiguousarray(whole.permute(0, 2, 3, 1).numpy())
