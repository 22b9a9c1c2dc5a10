"""The pictures of an image or video as a model family takes them: one at a time."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Protocol, runtime_checkable

from PIL import Image

from vlm2vec_service.preprocess.images import EncodedImage


@runtime_checkable
class VideoSource(Protocol):
    """A video file of which some frames are sampled, measured and not yet decoded."""

    def __len__(self) -> int:
        """Counts the frames that are sampled."""

    def sizes(self, decode: str) -> tuple[tuple[int, int], ...]:
        """Tells the width and height of each frame; ``decode`` is as in `EncodedImage`."""

    def frames(self, decode: str) -> Iterator[Image.Image]:
        """Decodes the frames to RGB, one after the other. Raises `InvalidInputError`."""


Picture = Image.Image | EncodedImage
"""An RGB picture, or a file that is decoded to one."""


@dataclass(frozen=True)
class Pictures:
    """The picture of an image, or the frames of a video.

    ``sizes`` has the width and height of each. Iterating decodes them to RGB one after the other,
    so that only one has to be in memory, and raises `InvalidInputError` for one that is damaged.
    """

    sizes: tuple[tuple[int, int], ...]
    decode: Callable[[], Iterator[Image.Image]]

    @classmethod
    def of(cls, source: Sequence[Picture] | VideoSource, decode: str) -> "Pictures":
        """Takes pictures or a video, which are decoded as ``decode`` says (see `EncodedImage`)."""
        if not isinstance(source, Sequence):
            return cls(source.sizes(decode), lambda: source.frames(decode))
        sizes = tuple(
            picture.size if isinstance(picture, Image.Image) else picture.size(decode)
            for picture in source
        )
        return cls(sizes, lambda: map(_rgb, source, repeat(decode)))

    def __len__(self) -> int:
        return len(self.sizes)

    def __iter__(self) -> Iterator[Image.Image]:
        return self.decode()

    def resized(self, size: tuple[int, int]) -> "Pictures":
        """Resizes each to ``size``, its aspect lost, by Pillow's default filter (bicubic)."""
        return replace(
            self,
            sizes=(size,) * len(self),
            decode=lambda: map(Image.Image.resize, self.decode(), repeat(size)),
        )


def _rgb(picture: Picture, decode: str) -> Image.Image:
    return picture if isinstance(picture, Image.Image) else picture.decoded(decode)
