"""Pictures that tests make up."""

import numpy as np
from PIL import Image


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Draws every value of every pixel at random; equal arguments give equal pictures."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


def blank(width: int, height: int) -> Image.Image:
    """Makes a black picture."""
    return Image.new("RGB", (width, height))
