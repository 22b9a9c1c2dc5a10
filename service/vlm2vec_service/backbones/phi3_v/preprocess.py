"""Phi-3.5-vision: prompts and pictures to token ids and HD-transformed pixels."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from tokenizers import Tokenizer

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.limits import check_media, check_token_ids, check_tokens
from vlm2vec_service.preprocess.prepared import Media, Prepared, Request
from vlm2vec_service.preprocess.prompts import check_text, render
from vlm2vec_service.settings import Limits

CROP = 336
"""Pixels of one side of a crop: the input size of CLIP ViT-L/14-336."""
PLACEHOLDER = re.compile(r"<\|image_(\d+)\|>")


class Phi3VPreprocessor:
    """Prepares inputs for a Phi-3.5-vision checkpoint.

    The prompt is split at its ``<|image_N|>`` and every piece is tokenised by itself, with its
    own BOS, as upstream does: a second ``<s>`` follows each image.
    """

    def __init__(
        self,
        config: dict[str, Any],
        image_config: dict[str, Any],
        tokenizer: Tokenizer,
        limits: Limits,
    ) -> None:
        self.tokenizer = tokenizer
        self.limits = limits
        self.vocabulary: int = config["vocab_size"]
        self.num_crops: int = image_config.get("num_crops", 4)

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """See `Preprocessor.prepare`."""
        # Any tag will do to refuse: they all start alike.
        check_text(request, ("<|image_",), self.limits.max_text_bytes)
        check_media(request, self.limits)
        if request.video:
            raise InvalidInputError("video", "Phi-3.5-vision reads images only; send the frames")
        if request.token_ids:
            check_token_ids(request.token_ids, self.vocabulary, ())
            check_tokens(len(request.token_ids), self.limits)
            return Prepared(*_plain(request.token_ids))
        prompt = request.prompt
        if prompt is None:
            tags = [f"<|image_{i + 1}|>" for i in range(len(request.images))]
            prompt = render(embedding.prompt, request, tags)
        # Odd elements are the numbers of the tags between the even ones, the text.
        pieces = PLACEHOLDER.split(prompt)
        self._check_placeholders(pieces[1::2], len(request.images))

        num_crops = embedding.image.get("num_crops", self.num_crops)
        grids = [hd_grid(image, num_crops) for image in request.images]
        token_ids: list[int] = []
        starts: list[int] = []
        for index, piece in enumerate(pieces[0::2]):
            token_ids.extend(self.tokenizer.encode(piece).ids)
            if index < len(grids):
                starts.append(len(token_ids))
                token_ids.extend([-(index + 1)] * token_count(grids[index]))
        # Before any pixel is resized: the token count follows from the sizes alone.
        check_tokens(len(token_ids), self.limits)
        media = tuple(
            Media.of("image", hd_transform(image, grid)[None], start, token_count(grid))
            for image, grid, start in zip(request.images, grids, starts, strict=True)
        )
        return Prepared(*_plain(token_ids), media)

    def _check_placeholders(self, numbers: list[str], images: int) -> None:
        if numbers != [str(number) for number in range(1, images + 1)]:
            shown = [f"<|image_{number[:9]}|>" for number in numbers[:20]]
            found = ", ".join(shown) or "no placeholder"
            raise InvalidInputError(
                "images",
                f"{images} given, but the prompt has {found}; number them from 1, in order",
            )


def _plain(
    token_ids: Sequence[int],
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """The ids, and positions that count them."""
    positions = np.arange(len(token_ids), dtype=np.int32)
    return np.asarray(token_ids, np.int32), np.broadcast_to(positions, (3, len(positions)))


def hd_grid(image: Image.Image, num_crops: int) -> tuple[int, int]:
    """Rows and columns of crops that the HD transform cuts ``image`` into, at most ``num_crops``.

    The longer side gets the most crops that still leave room for the shorter one.
    """
    longer, shorter = max(image.size), min(image.size)
    ratio = longer / shorter
    scale = 1
    while (scale + 1) * np.ceil((scale + 1) / ratio) <= num_crops:
        scale += 1
    other = int(np.ceil(int(scale * CROP / ratio) / CROP)) or 1
    width, height = image.size
    return (other, scale) if width >= height else (scale, other)


def token_count(grid: tuple[int, int]) -> int:
    """Tokens of an image of ``grid`` crops: 12x12 for each and for the global view, one more at
    the end of each row of tokens, and one between the two."""
    rows, columns = grid
    return (rows * columns + 1) * 144 + 1 + (rows + 1) * 12


def hd_transform(image: Image.Image, grid: tuple[int, int]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Resizes so that the longer side fills its crops and pads the other with white, half on each
    side; uint8 ``(336 * rows, 336 * columns, 3)``."""
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
