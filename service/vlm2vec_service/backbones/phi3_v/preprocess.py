"""Phi-3.5-vision: prompts and pictures to token ids and HD-transformed pixels.

The HD transform fits a picture into a grid of square crops; its rule is that of
microsoft/Phi-3.5-vision-instruct.
"""

import re
from typing import Any

import numpy as np
from PIL import Image

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.family import CheckpointFiles, FamilyPreprocessor
from vlm2vec_service.preprocess.prepared import Draft, Media, Prepared, Request, Sources
from vlm2vec_service.preprocess.tokens import Prompt, cut_text
from vlm2vec_service.settings import Limits

CROP = 336
"""The pixels of one side of a crop, which is the input size of CLIP ViT-L/14-336."""
PLACEHOLDER = re.compile(r"<\|image_(\d+)\|>")


class Phi3VPreprocessor(FamilyPreprocessor):
    """Prepares inputs for a Phi-3.5-vision checkpoint.

    The prompt is split at its ``<|image_N|>`` and every piece is tokenised by itself, with its
    own BOS, as upstream does: a second ``<s>`` follows each image.
    """

    # Without a number: all placeholders start alike.
    reserved_text = ("<|image_",)
    placeholder = PLACEHOLDER.pattern
    takes = ("image",)

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        super().__init__(files, limits)
        self.num_crops: int = files.image_config.get("num_crops", 4)

    def placeholders(self, request: Request) -> list[str]:
        """Numbers the images from 1."""
        return [f"<|image_{i + 1}|>" for i in range(len(request.images))]

    def draft(self, prompt: Prompt, sources: Sources, embedding: EmbeddingConfig) -> Draft:
        """Gives the tokens of image N the id ``-N``."""
        images = sources.images
        # Odd elements are the numbers of the placeholders between the even ones, the text.
        pieces = PLACEHOLDER.split(prompt.text)
        self._check_placeholders(pieces[1::2], len(images))

        num_crops = embedding.image.get("num_crops", self.num_crops)
        grids = {-n: hd_grid(image.sizes[0], num_crops) for n, image in enumerate(images, 1)}
        placed: list[int] = []
        for place, text in zip((0, *grids), pieces[0::2], strict=True):
            placed += [place] * bool(place) + prompt.encode(text)
        token_ids: list[int] = []
        starts: list[int] = []
        kept = cut_text(placed, prompt.max_text_tokens, grids)
        for token in kept:
            if token in grids:
                starts.append(len(token_ids))
            token_ids += [token] * (token_count(grids[token]) if token in grids else 1)

        def finish() -> Prepared:
            media = tuple(
                Media.of(
                    "image", hd_transform(next(iter(image)), grid)[None], start, token_count(grid)
                )
                for image, grid, start in zip(images, grids.values(), starts, strict=True)
            )
            return Prepared.in_sequence(token_ids, media)

        last = starts[-1] + token_count(grids[-len(starts)]) if starts else 0
        return Draft(len(token_ids), len(kept) < len(placed), finish, last)

    def _check_placeholders(self, numbers: list[str], images: int) -> None:
        if numbers != [str(number) for number in range(1, images + 1)]:
            shown = [f"<|image_{number[:9]}|>" for number in numbers[:20]]
            found = ", ".join(shown) or "no placeholder"
            raise InvalidInputError(
                "images",
                f"{images} given, but the prompt has {found}; number them from 1, in order",
            )


def hd_grid(size: tuple[int, int], num_crops: int) -> tuple[int, int]:
    """Finds the rows and columns of crops, at most ``num_crops``, that a picture is cut into whose
    width and height are ``size``.

    The longer side gets the most crops that still leave room for the shorter one.
    """
    longer, shorter = max(size), min(size)
    ratio = longer / shorter
    scale = 1
    while (scale + 1) * np.ceil((scale + 1) / ratio) <= num_crops:
        scale += 1
    other = int(np.ceil(int(scale * CROP / ratio) / CROP)) or 1
    width, height = size
    return (other, scale) if width >= height else (scale, other)


def token_count(grid: tuple[int, int]) -> int:
    """Counts the tokens of an image whose ``grid`` has so many rows and columns of crops.

    Every crop and the global view, the whole picture as one crop, have 12x12 tokens; one more
    ends each row of tokens, and one stands between the crops and the global view.
    """
    rows, columns = grid
    return (rows * columns + 1) * 144 + 1 + (rows + 1) * 12


def hd_transform(image: Image.Image, grid: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Resizes ``image`` so that its longer side fills the crops of ``grid``, and pads the other
    with white, half on each side. Returns uint8 ``(336 * rows, 336 * columns, 3)``.
    """
    rows, columns = grid
    portrait = image.width < image.height
    if portrait:
        image, rows, columns = image.transpose(Image.Transpose.TRANSPOSE), columns, rows
    width = columns * CROP
    height = max(1, int(width / (image.width / image.height)))
    resized = image.resize((width, height), Image.Resampling.BILINEAR)
    padded = Image.new("RGB", (width, rows * CROP), (255, 255, 255))
    padded.paste(resized, (0, (rows * CROP - height) // 2))
    if portrait:
        padded = padded.transpose(Image.Transpose.TRANSPOSE)
    return np.asarray(padded)
