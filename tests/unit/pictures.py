"""Pictures that tests make up."""

import io

import numpy as np
from PIL import Image

from vlm2vec_service.preprocess.pictures import Frames


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draws every value of every pixel at random; equal arguments give equal pictures."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def blank(width: int, height: int) -> Image.Image:
    """Makes a black picture."""
    return Image.new("RGB", (width, height))


def png(width: int, height: int) -> bytes:
    """Encodes a picture of noise."""
    file = io.BytesIO()
    noise(width, height).save(file, "PNG")
    return file.getvalue()


def gif_of_huge_frames(side: int, frames: int) -> bytes:
    """Makes a film that changes one pixel of a large screen with every frame, in 23 bytes each."""
    size = side.to_bytes(2, "little")
    screen = b"GIF89a" + size + size + b"\x80\0\0" + b"\0\0\0\xff\xff\xff"
    frame = b"\x21\xf9\x04\x04\x0a\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0" + b"\x02\x02\x44\x01\0"
    return screen + frame * frames + b";"


def frames(count: int, width: int = 112, height: int = 84) -> tuple[Image.Image, ...]:
    """Makes ``count`` pictures of noise, each another."""
    return tuple(noise(width, height, seed) for seed in range(count))


def films(pictures: tuple[Image.Image, ...]) -> tuple[Frames, ...]:
    """Makes the videos of a request: one of ``pictures``, or none."""
    return (Frames(pictures),) if pictures else ()


def film(count: int, width: int = 112, height: int = 84) -> tuple[Frames, ...]:
    """Makes the videos of a request: one of ``count`` frames."""
    return films(frames(count, width, height))
