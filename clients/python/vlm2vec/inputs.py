"""Inputs, each of which becomes one vector, and the messages that carry them."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from vlm2vec.errors import InvalidInput
from vlm2vec.media import ImageLike, VideoLike, image_bytes, video
from vlm2vec.v1 import embedding_pb2 as pb


@dataclass(frozen=True)
class Input:
    """Words, images and a video that together become one vector.

    The words are either ``instruction`` and ``text``, which the server joins with the media by the
    prompt template of the model, or ``prompt``. Raises ValueError if both are given, and TypeError
    if ``images`` is one image and not a sequence.
    """

    text: str | None = None
    """The words to embed; None for none."""
    instruction: str | None = None
    """The task, such as "Represent the given image for classification"; None takes the call's."""
    images: Sequence[ImageLike] = ()
    """Paths, encoded files (bytes), PIL images, or uint8 RGB arrays ``(height, width, 3)``."""
    video: VideoLike | None = None
    """A path, an encoded file (bytes), or frames of one size, each as in ``images``."""
    prompt: str | None = None
    """The whole prompt, with the model's own placeholders for the media: images, then video."""

    def __post_init__(self) -> None:
        if self.prompt is not None and (self.text is not None or self.instruction is not None):
            raise ValueError(
                "a prompt is the whole text: give no text and no instruction beside it"
            )
        if isinstance(self.images, str | bytes | np.ndarray) or not isinstance(
            self.images, Sequence
        ):
            raise TypeError("images is a sequence: for one image write images=[image]")


InputLike: TypeAlias = Input | str | Path
"""An `Input`, or a string, which stands for a text, or a pathlib.Path, which is an image."""


def as_input(item: InputLike) -> Input:
    """Returns the `Input` that ``item`` stands for; raises TypeError for any other type."""
    match item:
        case Input():
            return item
        case str():
            return Input(text=item)
        case Path():
            return Input(images=[item])
    raise TypeError(f"{type(item).__name__} is neither Input, str nor pathlib.Path")


def to_proto(item: InputLike, instruction: str | None, max_bytes: int) -> pb.Input:
    """Returns the message for ``item``; ``instruction`` is for one that has none and no prompt.

    Reads files and encodes pixels. Raises `InvalidInput` for a file that cannot be read, pixels of
    a wrong shape, and a message above ``max_bytes``.
    """
    source = as_input(item)
    message = pb.Input(parts=_parts(source), prompt=source.prompt)
    if source.prompt is None:
        message.instruction = (
            source.instruction if source.instruction is not None else instruction or ""
        )
    if message.ByteSize() > max_bytes:
        raise InvalidInput(
            f"an input of {message.ByteSize()} bytes is above the limit of {max_bytes} a message"
        )
    return message


def has_media(item: object) -> bool:
    """Tells whether files are read or pixels encoded to make the message of ``item``.

    ``item`` is an `InputLike`, or a pair of an id and one.
    """
    match item:
        case (_, value):
            return has_media(value)
        case Input():
            return bool(item.images) or item.video is not None
    return isinstance(item, os.PathLike)


def _parts(source: Input) -> Iterator[pb.Part]:
    """Yields the parts of a message: the media first, as in the prompt."""
    for index, image in enumerate(source.images):
        yield pb.Part(image=image_bytes(image, f"images[{index}]"))
    if source.video is not None:
        yield pb.Part(video=video(source.video, "video"))
    if source.text is not None:
        yield pb.Part(text=source.text)
