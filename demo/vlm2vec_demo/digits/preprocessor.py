"""Prepares pictures of scenes and texts about them, by the service's own preprocessing."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from PIL import Image

from vlm2vec_demo.digits.world import Images
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.preprocess import Prepared, Request


class ScenePreprocessor:
    """Prepares inputs for the checkpoint in ``base``, without an adapter's settings."""

    def __init__(self, base: Path) -> None:
        self.preprocessor = load_preprocessor(base)
        self.embedding = EmbeddingConfig()
        self.text = lru_cache(100_000)(self._text)

    def _text(self, text: str, instruction: str | None = None) -> Prepared:
        request = Request(instruction=instruction, text=text)
        return self.preprocessor.prepare(request, self.embedding)

    def texts(self, texts: Sequence[str], instruction: str | None = None) -> list[Prepared]:
        """Prepares ``texts``, each with ``instruction`` in front of it."""
        return [self.text(text, instruction) for text in texts]

    def images(
        self, images: Images, instruction: str, texts: Sequence[str] | None = None
    ) -> list[Prepared]:
        """Prepares ``images``, uint8 ``(n, height, width, 3)``.

        Each has ``instruction``, and with ``texts`` its own text.
        """
        return [
            self.preprocessor.prepare(
                Request(
                    instruction=instruction,
                    text=texts[index] if texts else None,
                    images=(Image.fromarray(image),),
                ),
                self.embedding,
            )
            for index, image in enumerate(images)
        ]
