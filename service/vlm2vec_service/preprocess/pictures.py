"""The pictures of an image or video as a model family takes them: one at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import repeat
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import PIL
from PIL import Image

from vlm2vec_service.preprocess.images import EncodedImage


@runtime_checkable
class VideoSource(Protocol):
    """A video file of which some frames are sampled, measured and not yet decoded."""

    @property
    def fps(self) -> float:
        """The frames of the file in a second."""

    @property
    def wanted(self) -> tuple[int, ...]:
        """The places of the sampled frames in the file."""

    @property
    def total(self) -> int:
        """The frames of the file."""

    def __len__(self) -> int:
        """Counts the frames that are sampled."""

    def sizes(self, decode: str) -> tuple[tuple[int, int], ...]:
        """Tells the width and height of each frame; ``decode`` is as in `EncodedImage`."""

    def frames(self, decode: str) -> Iterator[Image.Image]:
        """Decodes the frames to RGB, one after the other. Raises `InvalidInputError`."""


MIN_FPS, MAX_FPS = 0.001, 1000.0
"""Frames that a caller may say are shown in a second."""
Picture = Image.Image | EncodedImage
"""An RGB picture, or a file that is decoded to one."""


@dataclass(frozen=True)
class Frames:
    """A video as its frames, in order; ``fps`` of them are shown in a second, None does not say."""

    pictures: tuple[Picture, ...]
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.pictures)


@dataclass(frozen=True)
class Pictures:
    """The picture of an image, or the frames of a video.

    ``sizes`` has the width and height of each. Iterating decodes them to RGB one after the other,
    so that only one has to be in memory, and raises `InvalidInputError` for one that is damaged.
    ``fps`` of a video's frames are shown in a second; None does not say. ``seconds`` has the time
    of each, where they are sampled from a file. An image that is read from a file has its bytes in
    ``file``, and ``steps`` says all that is done with them: together they decide its pixels.
    """

    sizes: tuple[tuple[int, int], ...]
    decode: Callable[[], Iterator[Image.Image]]
    fps: float | None = None
    seconds: tuple[float, ...] = ()
    file: bytes | None = field(default=None, repr=False)
    steps: str = ""

    @classmethod
    def of(cls, source: Sequence[Picture] | Frames | VideoSource, decode: str) -> "Pictures":
        """Takes pictures or a video, which are decoded as ``decode`` says (see `EncodedImage`)."""
        if isinstance(source, Frames):
            return replace(cls.of(source.pictures, decode), fps=source.fps)
        # Before what takes longer to look at, a protocol.
        if not isinstance(source, Sequence) and isinstance(source, VideoSource):
            return cls(
                source.sizes(decode),
                lambda: source.frames(decode),
                len(source) * source.fps / source.total,
                tuple(index / source.fps for index in source.wanted),
            )
        sizes = tuple(
            picture.size if isinstance(picture, Image.Image) else picture.size(decode)
            for picture in source
        )
        one = source[0] if len(source) == 1 else None
        return cls(
            sizes,
            lambda: map(_rgb, source, repeat(decode)),
            file=one.data if isinstance(one, EncodedImage) else None,
            steps=f"Pillow {PIL.__version__} {decode}",
        )

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Image.Image]:
        return self.decode()

    def pixels(self) -> npt.NDArray[np.uint8]:
        """Decodes all, which have one size: uint8 ``(pictures, height, width, 3)``, which may not
        be writable. Raises `InvalidInputError`."""
        width, height = self.sizes[0]
        if len(self) == 1:
            return np.asarray(next(iter(self)))[None]
        pixels = np.empty((len(self), height, width, 3), np.uint8)
        for place, picture in zip(pixels, self, strict=True):
            place[...] = np.asarray(picture)
        return pixels

    def picked(self, indices: Sequence[int]) -> "Pictures":
        """Takes those at ``indices``, which rise; the rate stays that of all."""
        wanted = set(indices)
        return self._then(
            f"picked {indices}",
            tuple(self.sizes[index] for index in indices),
            lambda: (one for index, one in enumerate(self.decode()) if index in wanted),
        )

    def resized(self, size: tuple[int, int]) -> "Pictures":
        """Resizes each to ``size``, its aspect lost, by Pillow's default filter (bicubic)."""
        return self._then(
            f"resized {size}",
            (size,) * len(self),
            lambda: map(_resized, self.decode(), repeat(size)),
        )

    def padded(self, side: int) -> "Pictures":
        """Puts each into the middle of black that has at least ``side`` pixels both ways."""
        sizes = tuple((max(width, side), max(height, side)) for width, height in self.sizes)
        return self._then(f"padded {side}", sizes, lambda: map(_on_black, self.decode(), sizes))

    def _then(
        self,
        step: str,
        sizes: tuple[tuple[int, int], ...],
        decode: Callable[[], Iterator[Image.Image]],
    ) -> "Pictures":
        return replace(self, sizes=sizes, decode=decode, steps=f"{self.steps}, {step}")


def _rgb(picture: Picture, decode: str) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else picture.decoded(decode)


def _resized(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture if picture.size == size else picture.resize(size)  # Pillow would copy it


def _on_black(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    if picture.size == size:
        return picture
    whole = Image.new("RGB", size)
    whole.paste(picture, ((size[0] - picture.width) // 2, (size[1] - picture.height) // 2))
    return whole
