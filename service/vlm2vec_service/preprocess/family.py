"""What the preprocessing of every model family does alike."""

import functools
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import ImageRules, VideoRules
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.errors import CheckpointError, InvalidInputError, listed
from vlm2vec_service.preprocess.chat_template import ChatTemplate
from vlm2vec_service.preprocess.limits import (
    check_audios,
    check_media,
    check_token_ids,
    check_tokens,
)
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Draft, Prepared, Request, Sources
from vlm2vec_service.preprocess.prompts import check_text, render
from vlm2vec_service.preprocess.sampling import FrameCount, FrameRate, Sampling
from vlm2vec_service.preprocess.tokens import Prompt, PromptTokenizer, cut_text
from vlm2vec_service.settings import Limits

SPELT_TEMPLATES = 64
"""Templates of versions that are kept as the tokenizer knows them: every input needs one."""


@dataclass(frozen=True)
class CheckpointFiles:
    """What preprocessing reads in a checkpoint folder.

    ``config`` has the contents of ``config.json``, ``image_config`` those of
    ``preprocessor_config.json``; ``tokenizer`` neither truncates nor pads. ``base`` is the folder,
    in which a chat template is looked for where it is wanted.
    """

    config: dict[str, Any]
    image_config: dict[str, Any]
    tokenizer: Tokenizer
    base: Path | None = None


class FamilyPreprocessor(ABC):
    """A `Preprocessor` whose subclasses say what differs from one model family to the next.

    Making one raises `KeyError` if a file of the checkpoint lacks a key that has no default.
    """

    reserved_text: Sequence[str]
    """What neither instruction nor text may contain, because the family reads it as media: of each
    kind that it takes, in that order."""
    media_token_ids: Collection[int] = ()
    """The token ids that stand for media; a request of token ids may not contain them."""
    takes: Sequence[str] = ("image", "video")
    """The kinds of media that the family reads."""
    placeholder = r"(?!)"
    """A regular expression of what stands for media in a raw prompt and is no control token."""
    pictures = ImageRules()
    """What becomes of pictures where ``embedding.json`` has no rule for them."""
    films = VideoRules()
    """What becomes of films where ``embedding.json`` does not say."""

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        self.tokenizer = PromptTokenizer(files.tokenizer)
        self.limits = limits
        self.base = files.base
        # Newer configurations keep what is the language model's apart.
        self.vocabulary: int = (files.config.get("text_config") or files.config)["vocab_size"]
        self.spell = functools.lru_cache(SPELT_TEMPLATES)(self._spell)

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        """Checks ``request`` and turns it into the engine's input, as ``embedding`` says.

        Raises `InvalidInputError` that names the field at fault.
        """
        if request.has_media:
            self._check_taken(request)
        check_text(request, self.reserved_text, self.limits.max_text_bytes, embedding.prompt)
        if request.token_ids:
            return self._prepare_ids(request, embedding)
        sources = Sources()
        if request.has_media:
            if embedding.image_rules == ImageRules():
                embedding = replace(embedding, image_rules=self.pictures)
            images, videos = self._seen(request, embedding.image_rules)
            check_audios(len(request.audios), self.limits)
            request = self.heard(request, embedding)
            sources = Sources(images, videos, request.audios)
        prompt, draft = self._draft(request, sources, embedding)
        if embedding.cut == "all" and embedding.max_text_tokens is not None:
            draft = draft.cut(embedding.max_text_tokens, self.tokenizer.tail)
        check_tokens(draft.tokens, self.limits)
        return self._to_read(draft.finish(), embedding, draft.truncated, prompt)

    def _check_taken(self, request: Request) -> None:
        """Refuses media of a kind that the family does not read, and names the first of them."""
        for kind, field, media in (
            ("image", "images", request.images),
            ("video", "video", request.videos),
            ("audio", "audio", request.audios),
        ):
            if media and kind not in self.takes:
                raise InvalidInputError(
                    getattr(media[0], "field", field),
                    f"the model takes no {kind}: {listed(self.takes)} and text only",
                )

    def _seen(self, request: Request, rules: ImageRules) -> tuple[list[Pictures], list[Pictures]]:
        """Lists the images and the videos of ``request`` as ``rules`` have them decoded, once
        their sizes are checked."""
        images = [Pictures.of((image,), rules.decode) for image in request.images]
        videos = [Pictures.of(video, rules.decode) for video in request.videos]
        check_media(images, videos, self.limits)
        if rules.resize:
            images = [image.resized(rules.resize) for image in images]
            check_media(images, videos, self.limits)
        return images, videos

    def _prepare_ids(self, request: Request, embedding: EmbeddingConfig) -> Prepared:
        check_token_ids(request.token_ids, self.vocabulary, self.media_token_ids)
        token_ids = cut_text(request.token_ids, embedding.max_text_tokens, ())
        if request.truncate is not None:
            token_ids = token_ids[: request.truncate or self.limits.max_tokens]
        check_tokens(len(token_ids), self.limits)
        prepared = Prepared.in_sequence(token_ids)
        return self._to_read(prepared, embedding, len(token_ids) < len(request.token_ids))

    def _to_read(
        self,
        prepared: Prepared,
        embedding: EmbeddingConfig,
        truncated: bool,
        prompt: Prompt | None = None,
    ) -> Prepared:
        """Says of ``prepared``, made of ``prompt``, how ``embedding`` has it read and pooled."""
        pooled = 1
        if embedding.pooling != "last":
            pooled = len(prepared)
        if embedding.pooling == "mean_without_system" and prompt is not None and prompt.system:
            # The turn ends with a control token or a line feed, which no token reaches across.
            user = prompt.text[prompt.system :]
            pooled -= len(prompt.encode(prompt.text)) - len(prompt.encode(user))
        both_ways = embedding.attention == "bidirectional"
        if not truncated and pooled == 1 and not both_ways:
            return prepared
        return replace(prepared, truncated=truncated, pooled=max(pooled, 1), both_ways=both_ways)

    def film_rules(self, embedding: EmbeddingConfig) -> VideoRules:
        """Completes what ``embedding`` says of films by what the family does."""
        return _completed(embedding.video, self.films)

    def sampling(self, embedding: EmbeddingConfig, frames: int) -> Sampling:
        """Says which frames of a video file are taken: where ``embedding`` and the family say
        nothing, so many ``frames``."""
        rules = self.film_rules(embedding)
        if rules.fps is None:
            return FrameCount(rules.max_frames or frames)
        most = rules.max_frames or self.limits.max_video_frames
        return FrameRate(rules.fps, rules.min_frames or 1, most)

    def heard(self, request: Request, embedding: EmbeddingConfig) -> Request:
        """Decodes the audios of ``request`` as far as ``embedding`` has them taken, in a family
        that takes any; what it has left out is not in the result."""
        return request

    def _draft(
        self, request: Request, sources: Sources, embedding: EmbeddingConfig
    ) -> tuple[Prompt, Draft]:
        """Makes the prompt and its draft, with as much of its text as ``truncate`` leaves."""
        prompt = self._prompt(request, embedding)
        draft = self.draft(prompt, sources, embedding)
        if request.truncate is None:
            return prompt, draft
        most, extra = request.truncate or self.limits.max_tokens, 0
        while (excess := draft.tokens - most) > 0:
            prompt = self._shortened(prompt, excess + extra, most)
            draft = self.draft(prompt, sources, embedding)._replace(truncated=True)
            extra = 2 * extra + 1  # what is left of a word may be more tokens than the word was
        return prompt, draft

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
        has_media = request.has_media
        uncut = embedding.cut == "all" or (embedding.cut == "text_alone" and has_media)
        most = None if uncut else embedding.max_text_tokens
        if request.prompt is not None:
            words = self._longest_words(request.prompt)
            return Prompt(request.prompt, self.tokenizer.encode_raw, most, words)
        template = self.spell(embedding.prompt)
        encode, spell = self._encoder(template)
        marks = [spell(one) for one in self.placeholders(request)] if has_media else []
        found = render(template, request, marks)
        return Prompt(found.text, encode, most, found.words, found.system, spell)

    def _spell(self, template: PromptTemplate) -> PromptTemplate:
        """Writes the control tokens in ``template`` as the tokenizer knows them, after the
        checkpoint's own template where it wants that. Raises `CheckpointError`."""
        if template.chat_template:
            template = self._own_turns(template)
        _, spell = self._encoder(template)
        parts = {part.name: getattr(template, part.name) for part in fields(PromptTemplate)}
        spelt: dict[str, Any] = {k: spell(v) for k, v in parts.items() if isinstance(v, str)}
        for name in ("brackets", "audio_brackets"):
            spelt[name] = tuple(map(spell, getattr(template, name)))
        return replace(template, **spelt)

    def _encoder(
        self, template: PromptTemplate
    ) -> tuple[Callable[[str], list[int]], Callable[[str], str]]:
        """How prompts of ``template`` are encoded, and how control tokens are spelt for that."""
        if template.control_tokens:
            return self.tokenizer.encode_raw, str
        return self.tokenizer.encode, self.tokenizer.spell

    def _own_turns(self, template: PromptTemplate) -> PromptTemplate:
        found = ChatTemplate.read(self.base) if self.base else None
        if found is None:
            raise CheckpointError("prompt.chat_template: the checkpoint has no chat template")
        return found.fill(template, dict(zip(self.takes, self.reserved_text, strict=True)))

    def _longest_words(self, prompt: str) -> tuple[int, int]:
        """The place of the longest text between the placeholders and control tokens of a raw
        prompt."""
        marks = re.finditer(f"{self.tokenizer.control.pattern}|{self.placeholder}", prompt)
        edges = [0, *(edge for mark in marks for edge in mark.span()), len(prompt)]
        places = zip(edges[::2], edges[1::2], strict=True)
        return max(places, key=lambda place: place[1] - place[0])

    @abstractmethod
    def placeholders(self, request: Request) -> list[str]:
        """Lists what stands in a rendered prompt for each image, video and audio of ``request``."""

    @abstractmethod
    def draft(self, prompt: Prompt, sources: Sources, embedding: EmbeddingConfig) -> Draft:
        """Tokenises ``prompt``, cuts its text (`cut_text`), and puts ``sources`` where its
        placeholders stand.

        The text and the number and sizes of the media are within the limits already. The tokens
        are not: no picture is decoded before the draft is finished, and of audio (see `heard`) no
        more than the tokens allow. Raises `InvalidInputError`.
        """


@functools.lru_cache(SPELT_TEMPLATES)
def _completed(said: VideoRules, films: VideoRules) -> VideoRules:
    """The rules that are ``said``, and those of ``films`` for what they leave open."""
    values = {key.name: getattr(said, key.name) for key in fields(VideoRules)}
    return replace(films, **{k: value for k, value in values.items() if value is not None})
