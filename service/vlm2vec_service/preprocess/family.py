"""What the preprocessing of every model family does alike."""

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from tokenizers import Tokenizer

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.limits import check_media, check_token_ids, check_tokens
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Draft, Prepared, Request
from vlm2vec_service.preprocess.prompts import check_text, render
from vlm2vec_service.preprocess.tokens import Prompt, PromptTokenizer, cut_text
from vlm2vec_service.settings import Limits

SPELT_TEMPLATES = 64
"""Templates of versions that are kept as the tokenizer knows them: every input needs one."""


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
    placeholder = r"(?!)"
    """A regular expression of what stands for media in a raw prompt and is no control token."""

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        self.tokenizer = PromptTokenizer(files.tokenizer)
        self.limits = limits
        self.vocabulary: int = files.config["vocab_size"]
        self._spelt = functools.lru_cache(SPELT_TEMPLATES)(self._spell)

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Checks ``request`` and turns it into the engine's input, as ``embedding`` says.

        Raises `InvalidInputError` that names the field at fault.
        """
        check_text(request, self.reserved_text, self.limits.max_text_bytes, embedding.prompt)
        images = [Pictures.of((image,), embedding.image_rules.decode) for image in request.images]
        video = Pictures.of(request.video, embedding.image_rules.decode)
        check_media(images, video, self.limits)
        if request.token_ids:
            return self._prepare_ids(request, embedding)
        if embedding.image_rules.resize:
            images = [image.resized(embedding.image_rules.resize) for image in images]
            check_media(images, video, self.limits)
        draft = self._draft(request, images, video, embedding)
        check_tokens(draft.tokens, self.limits)
        prepared = draft.finish()
        return replace(prepared, truncated=True) if draft.truncated else prepared

    def _prepare_ids(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        check_token_ids(request.token_ids, self.vocabulary, self.media_token_ids)
        token_ids = cut_text(request.token_ids, embedding.max_text_tokens, ())
        if request.truncate is not None:
            token_ids = token_ids[: request.truncate or self.limits.max_tokens]
        check_tokens(len(token_ids), self.limits)
        prepared = Prepared.in_sequence(token_ids)
        return replace(prepared, truncated=len(token_ids) < len(request.token_ids))

    def _draft(
        self,
        request: Request,
        images: Sequence[Pictures],
        video: Pictures,
        embedding: EmbeddingConfig,
    ) -> Draft:
        """Makes the prompt's draft, with as much of its text as ``truncate`` leaves."""
        prompt = self._prompt(request, embedding)
        draft = self.draft(prompt, images, video, embedding)
        if request.truncate is None:
            return draft
        most, extra = request.truncate or self.limits.max_tokens, 0
        while (excess := draft.tokens - most) > 0:
            prompt = self._shortened(prompt, excess + extra, most)
            draft = replace(self.draft(prompt, images, video, embedding), truncated=True)
            extra = 2 * extra + 1  # what is left of a word may be more tokens than the word was
        return draft

    def _shortened(self, prompt: Prompt, tokens: int, most: int) -> Prompt:
        """Leaves the last ``tokens`` of the words out. Raises `InvalidInputError` where none would
        be left, ``most`` being the limit."""
        shorter = prompt.with_words(
            lambda words: self.tokenizer.shortened(words, tokens, prompt.max_text_tokens)
        )
        if shorter.words[0] == shorter.words[1]:
            raise InvalidInputError(
                "input",
                f"it cannot be truncated to {most} tokens: media, instruction and template leave "
                "no room for any of its text",
            )
        return shorter

    def _prompt(self, request: Request, embedding: EmbeddingConfig) -> Prompt:
        most = embedding.max_text_tokens
        if request.prompt is not None:
            words = self._longest_words(request.prompt)
            return Prompt(request.prompt, self.tokenizer.encode_raw, most, words)
        template = self._spelt(embedding.prompt)
        placeholders = [self.tokenizer.spell(one) for one in self.placeholders(request)]
        found = render(template, request, placeholders)
        return Prompt(found.text, self.tokenizer.encode, most, found.words, found.system)

    def _spell(self, template: PromptTemplate) -> PromptTemplate:
        """Writes the control tokens in ``template`` as the tokenizer knows them."""
        spell = self.tokenizer.spell
        parts = {part.name: getattr(template, part.name) for part in fields(PromptTemplate)}
        spelt: dict[str, Any] = {k: spell(v) for k, v in parts.items() if isinstance(v, str)}
        return replace(template, **spelt)

    def _longest_words(self, prompt: str) -> tuple[int, int]:
        """The place of the longest text between the placeholders and control tokens of a raw
        prompt."""
        marks = re.finditer(f"{self.tokenizer.control.pattern}|{self.placeholder}", prompt)
        edges = [0, *(edge for mark in marks for edge in mark.span()), len(prompt)]
        places = zip(edges[::2], edges[1::2], strict=True)
        return max(places, key=lambda place: place[1] - place[0])

    @abstractmethod
    def placeholders(self, request: Request) -> list[str]:
        """Lists what stands in a rendered prompt for each image and video of ``request``."""

    @abstractmethod
    def draft(
        self,
        prompt: Prompt,
        images: Sequence[Pictures],
        video: Pictures,
        embedding: EmbeddingConfig,
    ) -> Draft:
        """Tokenises ``prompt``, cuts its text (`cut_text`), and puts ``images`` and ``video`` where
        its placeholders stand. Without a video ``video`` has no frames.

        The text and the number and sizes of the media are within the limits already. The tokens
        are not: nothing is decoded before the draft is finished. Raises `InvalidInputError`.
        """
