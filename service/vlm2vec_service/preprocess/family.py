"""What the preprocessing of every model family does alike."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.preprocess.limits import check_media, check_token_ids, check_tokens
from vlm2vec_service.preprocess.prepared import Prepared, Request
from vlm2vec_service.preprocess.prompts import check_text, render
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
        self.tokenizer = files.tokenizer
        self.limits = limits
        self.vocabulary: int = files.config["vocab_size"]

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Checks ``request`` and turns it into the engine's input, as ``embedding`` says.

        Raises `InvalidInputError` that names the field at fault.
        """
        check_text(request, self.reserved_text, self.limits.max_text_bytes)
        check_media(request, self.limits)
        if request.token_ids:
            check_token_ids(request.token_ids, self.vocabulary, self.media_token_ids)
            check_tokens(len(request.token_ids), self.limits)
            return Prepared.in_sequence(request.token_ids)
        prompt = request.prompt
        if prompt is None:
            prompt = render(embedding.prompt, request, self.placeholders(request))
        return self.prepare_prompt(prompt, request, embedding)

    @abstractmethod
    def placeholders(self, request: Request) -> list[str]:
        """Lists what stands in a rendered prompt for each image and video of ``request``."""

    @abstractmethod
    def prepare_prompt(self, prompt: str, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Tokenises ``prompt`` and puts the media of ``request`` where its placeholders stand.

        The text and the number and sizes of the media are within the limits already. The tokens
        are not: an implementation calls `check_tokens` before it resizes any picture. Raises
        `InvalidInputError`.
        """
