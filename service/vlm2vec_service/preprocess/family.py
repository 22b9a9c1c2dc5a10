"""What the preprocessing of every model family does alike."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields
from typing import Any

from tokenizers import Tokenizer

from vlm2vec_registry.embedding_config import EmbeddingConfig, PromptTemplate
from vlm2vec_service.preprocess.limits import check_media, check_token_ids, check_tokens
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Prepared, Request
from vlm2vec_service.preprocess.prompts import check_text, render
from vlm2vec_service.preprocess.tokens import Prompt, PromptTokenizer, cut_text
from vlm2vec_service.settings import Limits


@dataclass(frozen=True)
class CheckpointFiles:
    """What preprocessing reads in a checkpoint folder.

    ``config`` has the contents of ``config.json``, ``image_config`` those of
    ``preprocessor_config.json``; ``tokenizer`` neither truncates nor pads.
    """

    config: dict[str, Any]
    image_config: dict[str, Any]
    tokenizer: Tokenizer


class FamilyPreprocessor(ABC):
    """A `Preprocessor` whose subclasses say what differs from one model family to the next.

    Making one raises `KeyError` if a file of the checkpoint lacks a key that has no default.
    """

    reserved_text: Sequence[str]
    """What neither instruction nor text may contain, because the family reads it as media."""
    media_token_ids: Collection[int] = ()
    """The token ids that stand for media; a request of token ids may not contain them."""

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        self.tokenizer = PromptTokenizer(files.tokenizer)
        self.limits = limits
        self.vocabulary: int = files.config["vocab_size"]

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Checks ``request`` and turns it into the engine's input, as ``embedding`` says.

        Raises `InvalidInputError` that names the field at fault.
        """
        check_text(request, self.reserved_text, self.limits.max_text_bytes)
        images = [Pictures.of((image,), embedding.image_decode) for image in request.images]
        video = Pictures.of(request.video, embedding.image_decode)
        check_media(images, video, self.limits)
        if request.token_ids:
            check_token_ids(request.token_ids, self.vocabulary, self.media_token_ids)
            token_ids = cut_text(request.token_ids, embedding.max_text_tokens, ())
            check_tokens(len(token_ids), self.limits)
            return Prepared.in_sequence(token_ids)
        if embedding.image_resize:
            images = [image.resized(embedding.image_resize) for image in images]
            check_media(images, video, self.limits)
        return self.prepare_prompt(self._prompt(request, embedding), images, video, embedding)

    def _prompt(self, request: Request, embedding: EmbeddingConfig) -> Prompt:
        if request.prompt is not None:
            return Prompt(request.prompt, self.tokenizer.encode_raw, embedding.max_text_tokens)
        spell = self.tokenizer.spell
        parts = fields(PromptTemplate)
        template = PromptTemplate(
            **{part.name: spell(getattr(embedding.prompt, part.name)) for part in parts}
        )
        placeholders = [spell(placeholder) for placeholder in self.placeholders(request)]
        text = render(template, request, placeholders)
        return Prompt(text, self.tokenizer.encode, embedding.max_text_tokens)

    @abstractmethod
    def placeholders(self, request: Request) -> list[str]:
        """Lists what stands in a rendered prompt for each image and video of ``request``."""

    @abstractmethod
    def prepare_prompt(
        self,
        prompt: Prompt,
        images: Sequence[Pictures],
        video: Pictures,
        embedding: EmbeddingConfig,
    ) -> Prepared:
        """Tokenises ``prompt``, cuts its text (`cut_text`), and puts ``images`` and ``video`` where
        its placeholders stand. Without a video ``video`` has no frames.

        The text and the number and sizes of the media are within the limits already. The tokens
        are not: an implementation calls `check_tokens` before it decodes any picture, and decodes
        one at a time. Raises `InvalidInputError`.
        """
