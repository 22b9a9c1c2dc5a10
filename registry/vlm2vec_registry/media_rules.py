"""``image`` and ``video`` of ``embedding.json``: how a model is shown pictures and films."""

from dataclasses import asdict, dataclass, field
from typing import Any

from vlm2vec_registry.strict import Fields, is_count

DECODES = ("viewed", "raw")
"""How pictures are decoded: as a viewer shows them, or as Pillow's bare ``convert("RGB")`` does."""
SMALL = ("enlarge", "keep", "pad")
"""What becomes of a picture with a side shorter than that of a token: the square of two tokens'
side; what any other picture becomes; or, padded with black around it, that side."""
LONG = ("refuse", "square")
"""What becomes of a picture that is longer than the family's ratio."""
MOST_SIDE = 1 << 14
"""Pixels of one side that ``image.resize`` may ask for."""
MOST_FPS = 1000.0
"""Frames a second that a setting may ask for."""


@dataclass(frozen=True)
class Area:
    """A first resizing: to multiples of ``factor``, with ``min_pixels`` to ``max_pixels``."""

    factor: int
    min_pixels: int
    max_pixels: int

    @classmethod
    def read(cls, given: Fields | None) -> "Area | None":
        """Takes it from the fields of its own object. Raises `FormatError`."""
        if given is None:
            return None
        keys = ("factor", "min_pixels", "max_pixels")
        values = {key: given.count(key, None) for key in keys}
        given.done()
        for key, value in values.items():
            if value is None:
                given.fail(key, "a whole number", value)
        factor, least, most = (value or 0 for value in values.values())
        if least > most:
            given.fail("min_pixels", f"at most max_pixels, {most}", least)
        return cls(factor, least, most)


@dataclass(frozen=True)
class ImageRules:
    """The keys of ``image`` that override none of the base's settings.

    ``resize`` is the width and height in pixels that every picture gets first, its aspect lost;
    ``first`` the area that it is resized to before the base's own resizing; ``decode``, ``small``
    and ``long`` are of `DECODES`, `SMALL` and `LONG`.
    """

    resize: tuple[int, int] | None = None
    decode: str = DECODES[0]
    first: Area | None = None
    small: str = SMALL[0]
    long: str = LONG[0]

    @classmethod
    def read(cls, given: Fields | None) -> "tuple[dict[str, int], ImageRules]":
        """Takes the overrides of the base's settings and the rules. Raises `FormatError`."""
        if given is None:
            return {}, cls()
        sides = given.list_of("resize", lambda side: is_count(side, MOST_SIDE), "width and height")
        if sides is not None and len(sides) != 2:
            given.fail("resize", "a width and a height", sides)
        rules = cls(
            resize=(sides[0], sides[1]) if sides else None,
            decode=given.choice("decode", DECODES[0], DECODES),
            first=Area.read(given.object("first")),
            small=given.choice("small", SMALL[0], SMALL),
            long=given.choice("long", LONG[0], LONG),
        )
        return {key: given.count(key, 0) for key in given.left()}, rules

    def to_dict(self) -> dict[str, Any]:
        """The rules that are not the default."""
        return _said(self, ImageRules())


@dataclass(frozen=True)
class VideoRules:
    """The keys of ``video``; None leaves each to the service and the base.

    Of a file ``fps`` frames a second are taken, ``min_frames`` at least and ``max_frames`` at most;
    a longer list of frames is thinned to ``max_frames``, and shown at ``assumed_fps`` unless it
    says another. With ``fixed_fps`` that is the rate of what the model sees of any film, whatever
    the film says. A frame has ``min_pixels`` to ``max_pixels``, and the frames of a file together
    ``total_pixels``, those of a list ``list_total_pixels``. The frames of a list are resized to
    ``list_first`` before that.
    """

    fps: float | None = None
    min_frames: int | None = None
    max_frames: int | None = None
    assumed_fps: float | None = None
    fixed_fps: float | None = None
    min_pixels: int | None = None
    max_pixels: int | None = None
    total_pixels: int | None = None
    list_total_pixels: int | None = None
    list_first: Area | None = field(default=None)

    @classmethod
    def read(cls, given: Fields | None) -> "VideoRules":
        """Takes the rules from the fields of ``video``. Raises `FormatError`."""
        if given is None:
            return cls()
        rules = cls(
            fps=given.number("fps", None, 0.001, MOST_FPS),
            min_frames=given.count("min_frames", None),
            max_frames=given.count("max_frames", None),
            assumed_fps=given.number("assumed_fps", None, 0.001, MOST_FPS),
            fixed_fps=given.number("fixed_fps", None, 0.001, MOST_FPS),
            min_pixels=given.count("min_pixels", None),
            max_pixels=given.count("max_pixels", None),
            total_pixels=given.count("total_pixels", None),
            list_total_pixels=given.count("list_total_pixels", None),
            list_first=Area.read(given.object("list_first")),
        )
        given.done()
        return rules

    def to_dict(self) -> dict[str, Any]:
        """The rules that are not the default."""
        return _said(self, VideoRules())


def _said(rules: ImageRules | VideoRules, default: ImageRules | VideoRules) -> dict[str, Any]:
    usual = asdict(default)
    return {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in asdict(rules).items()
        if value != usual[key]
    }
