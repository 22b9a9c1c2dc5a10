"""Qwen-VL: prompts, pictures and films to token ids, positions and resized pixels."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import Area, VideoRules
from vlm2vec_service.backbones.qwen_vl.placing import Shown, decoded, placed, positions
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.family import CheckpointFiles, FamilyPreprocessor
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import (
    AudioSource,
    Draft,
    Kind,
    Prepared,
    Request,
    Sources,
)
from vlm2vec_service.preprocess.sampling import uniform
from vlm2vec_service.preprocess.tokens import Prompt, cut_text
from vlm2vec_service.settings import Limits

FIELDS = ("images", "video", "audio")
"""The fields that `Sources` come in, in their order."""
MAX_ASPECT_RATIO = 200
"""An image whose one side is longer than so many times the other is refused, as by the model's
own processor, or made a square."""
ABOVE_LEAST = 1.05
"""How many times its least pixels a frame may have, whatever all frames may have together."""


class QwenVLPreprocessor(FamilyPreprocessor):
    """Prepares inputs for a checkpoint of one of the Qwen-VL families.

    A placeholder takes the next image or film. Its tokens get plain sequential positions, which
    is what VLM2Vec was trained with, unless it stands behind ``<|vision_start|>``: then they get
    M-RoPE's temporal, height and width positions.
    """

    reserved_text: Sequence[str] = ("<|image_pad|>", "<|video_pad|>")
    enlarges = True
    """Whether a picture that is smaller than a token is enlarged where ``embedding.json`` does not
    say what becomes of it."""
    rounds_up = False
    """Whether a side shorter than half of a token's counts as a token's, before the area is looked
    at: so in qwen-vl-utils, and not in the processors of ``transformers``."""

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        super().__init__(files, limits)
        config, image_config = files.config, files.image_config
        self.media_token_ids: list[int] = [config[f"{kind}_token_id"] for kind in self.takes]
        self.vision_start_id: int = config["vision_start_token_id"]
        marks = ("vision_end_token_id", "audio_start_token_id", "audio_end_token_id")
        self.uncut_ids = {*self.media_token_ids, self.vision_start_id} | {
            config[mark] for mark in marks if mark in config
        }
        size = image_config.get("size") or {}
        self.min_pixels: int = image_config.get("min_pixels") or size["shortest_edge"]
        self.max_pixels: int = image_config.get("max_pixels") or size["longest_edge"]
        self.patch_size: int = image_config["patch_size"]
        self.merge_size: int = image_config["merge_size"]
        self.temporal_patch_size: int = image_config["temporal_patch_size"]

    @property
    def token_side(self) -> int:
        """Counts the pixels along one side of the square that becomes one token."""
        return self.patch_size * self.merge_size

    def placeholders(self, request: Request) -> list[str]:
        """Lists the images first, and one placeholder for the frames of each video."""
        media = (request.images, request.videos, request.audios)
        return [
            placeholder
            for placeholder, found in zip(self.reserved_text, media, strict=False)
            for _ in found
        ]

    def draft(self, prompt: Prompt, sources: Sources, embedding: EmbeddingConfig) -> Draft:
        """Repeats each placeholder's id as often as its medium has tokens."""
        ids = prompt.encode(prompt.text)
        self._check_placeholders(ids, sources)
        if not ids:
            raise InvalidInputError("text", "the prompt has no tokens")
        films = [self._film(video, embedding) for video in sources.videos]
        if films:
            ids = prompt.encode(self.with_films(prompt, films))
        kept = cut_text(ids, prompt.max_text_tokens, self.uncut_ids)
        images = [self._image(one, i, embedding) for i, one in enumerate(sources.images)]
        shown = (images, films, [self.sound(one) for one in sources.audios])
        if not any(shown):
            return Draft(len(kept), len(kept) < len(ids), lambda: Prepared.in_sequence(kept))

        opening = None if embedding.positions == "plain" else self.vision_start_id
        by_id = dict(zip(self.media_token_ids, shown, strict=False))
        token_ids, spans = placed(kept, by_id, opening)

        def finish() -> Prepared:
            return Prepared(
                np.asarray(token_ids, np.int32), positions(len(token_ids), spans), decoded(spans)
            )

        return Draft(len(token_ids), len(kept) < len(ids), finish, spans[-1].end)

    def with_films(self, prompt: Prompt, films: Sequence[Shown]) -> str:
        """Writes the prompt's text with a placeholder for each of the places of ``films``."""
        return prompt.text

    def film_times(self, film: Pictures, steps: int) -> Sequence[int]:
        """Computes the position of each of the ``steps`` in time of ``film``, whose rate is known,
        from 0."""
        return range(steps)

    def sound(self, audio: AudioSource) -> Shown:
        """Measures the tokens of ``audio``, in a family that takes any."""
        raise NotImplementedError

    def _check_placeholders(self, ids: Sequence[int], sources: Sources) -> None:
        for kind, token in enumerate(self.media_token_ids):
            given, found = len(sources[kind]), ids.count(token)
            if given != found:
                raise InvalidInputError(
                    FIELDS[kind],
                    f"{given} given, but the prompt has {found} {self.reserved_text[kind]}",
                )

    def _image(self, image: Pictures, index: int, embedding: EmbeddingConfig) -> Shown:
        rules, side = embedding.image_rules, self.token_side
        width, height = image.sizes[0]
        longer = max(width, height)
        if longer > MAX_ASPECT_RATIO * min(width, height):
            if rules.long == "refuse":
                raise InvalidInputError(
                    f"images[{index}]", f"{width}x{height} is longer than {MAX_ASPECT_RATIO} to 1"
                )
            size = fitting((longer, longer), self._area(embedding), self.rounds_up)
            return self.shown("image", image, size)
        if min(width, height) < side and rules.small == "pad":
            image = image.padded(side)
        # Upstream's rule for pictures that are smaller than one token.
        if min(width, height) < side and rules.small == "enlarge" and self.enlarges:
            image = image.resized((2 * side, 2 * side))
        if rules.first is not None:
            image = image.resized(fitting(image.sizes[0], rules.first, rounds_up=True))
        size = fitting(image.sizes[0], self._area(embedding), self.rounds_up)
        return self.shown("image", image, size)

    def _film(self, film: Pictures, embedding: EmbeddingConfig) -> Shown:
        rules = self.film_rules(embedding)
        if any(size != film.sizes[0] for size in film.sizes):
            raise InvalidInputError("video", "the frames differ in size")
        total = rules.total_pixels
        if not film.seconds:  # it is a list of frames
            total = rules.list_total_pixels
            film = self._thinned(film, rules)
            if rules.list_first is not None:
                film = film.resized(fitting(film.sizes[0], rules.list_first, rounds_up=True))
        if rules.fixed_fps is not None:
            film = replace(film, fps=rules.fixed_fps, seconds=())
        area = self._area(embedding)
        least, most = rules.min_pixels or area.min_pixels, rules.max_pixels or area.max_pixels
        if total is not None:
            frames = len(film) + len(film) % self.temporal_patch_size
            share = total // frames * self.temporal_patch_size
            most = max(min(most, share), int(least * ABOVE_LEAST))
        size = fitting(film.sizes[0], Area(self.token_side, least, most), self.rounds_up)
        shown = self.shown("video", film, size)
        return replace(shown, times=self.film_times(film, shown.grid[0]))

    def _thinned(self, film: Pictures, rules: VideoRules) -> Pictures:
        """Takes no more frames of a list than ``rules`` allow, and gives it a rate."""
        count, most = len(film), rules.max_frames or len(film)
        fps = film.fps
        if count > most:
            film = film.picked(uniform(count, most))
            fps = fps and fps * most / count
        return replace(film, fps=fps or rules.assumed_fps)

    def _area(self, embedding: EmbeddingConfig) -> Area:
        return Area(
            self.token_side,
            embedding.image.get("min_pixels", self.min_pixels),
            embedding.image.get("max_pixels", self.max_pixels),
        )

    def shown(self, kind: Kind, pictures: Pictures, size: tuple[int, int]) -> Shown:
        """Resizes an image or film to ``size``, a multiple of a token's side."""
        time = math.ceil(len(pictures) / self.temporal_patch_size)
        width, height = size
        grid = time, height // self.token_side, width // self.token_side
        # Pillow's default filter is the model's own, bicubic.
        resized = pictures.resized(size)
        return Shown(kind, grid, resized.pixels, pictures=resized)


def fitting(size: tuple[int, int], area: Area, rounds_up: bool) -> tuple[int, int]:
    """Finds the width and height to resize ``size`` to: multiples of the factor of ``area``, with a
    pixel count between its bounds and the aspect ratio as near as it gets (Qwen2-VL's rule,
    arXiv:2409.12191). With ``rounds_up`` no side is rounded to nothing first.
    """
    factor, least = area.factor, area.factor if rounds_up else 0
    width, height = (max(least, round(side / factor) * factor) for side in size)
    pixels = size[0] * size[1]
    if width * height > area.max_pixels:
        scale = math.sqrt(pixels / area.max_pixels)
        width, height = (max(factor, math.floor(side / scale / factor) * factor) for side in size)
    elif width * height < area.min_pixels:
        scale = math.sqrt(area.min_pixels / pixels)
        width, height = (math.ceil(side * scale / factor) * factor for side in size)
    return width, height
