"""What enters preprocessing and what leaves it."""

import hashlib
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from vlm2vec_registry.embedding_config import EmbeddingConfig


@dataclass(frozen=True)
class Request:
    """One thing to embed: a raw ``prompt`` with the model's own placeholders, or an
    ``instruction`` and ``text`` that the adapter's prompt template joins, or ``token_ids`` of the
    model's own tokenizer and nothing else.

    ``images`` and ``video`` are decoded RGB pictures; a video is its frames, in order.
    """

    prompt: str | None = None
    instruction: str | None = None
    text: str | None = None
    images: tuple[Image.Image, ...] = ()
    video: tuple[Image.Image, ...] = ()
    token_ids: tuple[int, ...] = ()


@dataclass(frozen=True)
class Media:
    """One image or video, resized and ready for the engine.

    ``pixels`` is uint8 of shape ``(frames, height, width, 3)``; ``start`` is the index of its
    first token in the input and ``tokens`` how many it takes there. ``digest`` is 16 bytes that are
    equal exactly where the pixels and the kind are.
    """

    kind: Literal["image", "video"]
    pixels: npt.NDArray[np.uint8]
    start: int
    tokens: int
    digest: bytes

    @classmethod
    def of(
        cls,
        kind: Literal["image", "video"],
        pixels: npt.NDArray[np.uint8],
        start: int,
        tokens: int,
    ) -> "Media":
        """With the digest of ``pixels``."""
        digest = hashlib.blake2b(f"{kind}{pixels.shape}".encode(), digest_size=16)
        digest.update(pixels.tobytes())
        return cls(kind, pixels, start, tokens, digest.digest())


@dataclass(frozen=True)
class Prepared:
    """One input as the engine takes it.

    ``token_ids`` is int32 ``(n,)``; media positions hold the model's placeholder id, or ``-N``
    for image N on Phi-3.5-V. ``positions`` is int32 ``(3, n)``: the temporal, height and width
    position of each token, all three equal where the model has plain positions.
    """

    token_ids: npt.NDArray[np.int32]
    positions: npt.NDArray[np.int32]
    media: tuple[Media, ...] = field(default=())

    def __len__(self) -> int:
        return len(self.token_ids)


class Preprocessor(Protocol):
    """Turns requests into prepared inputs; safe to call from many threads."""

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Raises `InvalidInputError` naming the field at fault."""
