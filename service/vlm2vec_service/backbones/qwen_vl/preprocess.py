"""Qwen-VL: prompts, pictures and films to token ids, positions and resized pixels."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import Area, VideoRules
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.family import CheckpointFiles, FamilyPreprocessor
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Draft, Media, Prepared, Request, Sources, in_order
from vlm2vec_service.preprocess.sampling import uniform
from vlm2vec_service.preprocess.tokens import Prompt, cut_text
from vlm2vec_service.settings import Limits

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
MAX_ASPECT_RATIO = 200
"""An image whose one side is longer than so many times the other is refused, as by the model's
own processor, or made a square."""
ABOVE_LEAST = 1.05
"""How many times its least pixels a frame may have, whatever all frames may have together."""
Grid = tuple[int, int, int]
"""Tokens in time, height and width."""


@dataclass(frozen=True)
class Shown:
    """An image or film, resized: ``grid`` is that of each of its ``places``, the placeholders that
    stand for it one after the other. A step in time is ``step`` positions."""

    kind: Literal["image", "video"]
    pictures: Pictures
    grid: Grid
    places: int = 1
    step: int = 1


@dataclass(frozen=True)
class Span:
    """The tokens from ``start`` on that stand for the part ``index`` of ``shown``; ``spatial`` says
    whether they have the positions of a grid."""

    start: int
    shown: Shown
    index: int
    spatial: bool


class QwenVLPreprocessor(FamilyPreprocessor):
    """Prepares inputs for a checkpoint of one of the Qwen-VL families.

    A placeholder takes the next image or film. Its tokens get plain sequential positions, which
    is what VLM2Vec was trained with, unless it stands behind ``<|vision_start|>``: then they get
    M-RoPE's temporal, height and width positions.
    """

    reserved_text = (IMAGE, VIDEO)
    enlarges = True
    """Whether a picture that is smaller than a token is enlarged where ``embedding.json`` does not
    say what becomes of it."""

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        super().__init__(files, limits)
        config, image_config = files.config, files.image_config
        self.image_id: int = config["image_token_id"]
        self.video_id: int = config["video_token_id"]
        self.media_token_ids = (self.image_id, self.video_id)
        self.vision_start_id: int = config["vision_start_token_id"]
        vision_end_id: int = config.get("vision_end_token_id", self.vision_start_id)
        self.uncut_ids = {*self.media_token_ids, self.vision_start_id, vision_end_id}
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
        return [IMAGE] * len(request.images) + [VIDEO] * len(request.videos)

    def draft(self, prompt: Prompt, sources: Sources, embedding: EmbeddingConfig) -> Draft:
        """Repeats each placeholder's id as often as its image or film has tokens."""
        ids = prompt.encode(prompt.text)
        images, videos = sources.images, sources.videos
        self._check_placeholders(ids, len(images), len(videos))
        if not ids:
            raise InvalidInputError("text", "the prompt has no tokens")
        films = [self._film(video, embedding) for video in videos]
        if films:
            ids = prompt.encode(self.with_films(prompt, films))
        kept = cut_text(ids, prompt.max_text_tokens, self.uncut_ids)
        if not images and not films:
            return Draft(len(kept), len(kept) < len(ids), lambda: Prepared.in_sequence(kept))

        shown = {
            self.image_id: [self._image(one, i, embedding) for i, one in enumerate(images)],
            self.video_id: films,
        }
        token_ids, spans = self._placed(kept, shown, embedding.positions != "plain")

        def finish() -> Prepared:
            positions = _positions(len(token_ids), [span for span in spans if span.spatial])
            return Prepared(np.asarray(token_ids, np.int32), positions, self._media(spans))

        return Draft(len(token_ids), len(kept) < len(ids), finish)

    def with_films(self, prompt: Prompt, films: Sequence[Shown]) -> str:
        """Writes the prompt's text with a placeholder for each of the places of ``films``."""
        return prompt.text

    def film_step(self, film: Pictures) -> int:
        """Counts the positions from one step in time of ``film``, whose rate is known, to the
        next."""
        return 1

    def _check_placeholders(self, ids: Sequence[int], images: int, videos: int) -> None:
        for token, name, field, count in (
            (self.image_id, IMAGE, "images", images),
            (self.video_id, VIDEO, "video", videos),
        ):
            if ids.count(token) != count:
                raise InvalidInputError(
                    field, f"{count} given, but the prompt has {ids.count(token)} {name}"
                )

    def _placed(
        self, ids: Sequence[int], shown: dict[int, list[Shown]], spatial: bool
    ) -> tuple[list[int], list[Span]]:
        """Repeats the ids of placeholders, and finds the tokens of each; those behind
        ``<|vision_start|>`` are of a grid, if ``spatial``."""
        places = {
            token: ((one, index) for one in media for index in range(one.places))
            for token, media in shown.items()
        }
        token_ids: list[int] = []
        spans: list[Span] = []
        previous = -1
        for token in ids:
            count = 1
            if token in places:
                one, index = next(places[token])
                behind = spatial and previous == self.vision_start_id
                spans.append(Span(len(token_ids), one, index, behind))
                count = math.prod(one.grid)
            token_ids += [token] * count
            previous = token
        return token_ids, spans

    def _media(self, spans: Sequence[Span]) -> tuple[Media, ...]:
        """Decodes what stands at ``spans``, one image or film after the other."""
        media = []
        for _, run in itertools.groupby(spans, key=lambda span: id(span.shown)):
            parts = list(run)
            shown = parts[0].shown
            pixels = np.stack([np.asarray(picture) for picture in shown.pictures])
            frames = shown.grid[0] * self.temporal_patch_size
            for span in parts:
                part = pixels[span.index * frames : (span.index + 1) * frames]
                media.append(Media.of(shown.kind, part, span.start, math.prod(shown.grid)))
        return tuple(media)

    def _image(self, image: Pictures, index: int, embedding: EmbeddingConfig) -> Shown:
        rules, side = embedding.image_rules, self.token_side
        width, height = image.sizes[0]
        longer = max(width, height)
        if longer > MAX_ASPECT_RATIO * min(width, height):
            if rules.long == "refuse":
                raise InvalidInputError(
                    f"images[{index}]", f"{width}x{height} is longer than {MAX_ASPECT_RATIO} to 1"
                )
            size = self._fitting((longer, longer), self._area(embedding))
            return self.shown("image", image, size)
        if min(width, height) < side and rules.small == "pad":
            image = image.padded(side)
        # Upstream's rule for pictures that are smaller than one token.
        if min(width, height) < side and rules.small == "enlarge" and self.enlarges:
            image = image.resized((2 * side, 2 * side))
        if rules.first is not None:
            image = image.resized(self._fitting(image.sizes[0], rules.first))
        return self.shown("image", image, self._fitting(image.sizes[0], self._area(embedding)))

    def _film(self, film: Pictures, embedding: EmbeddingConfig) -> Shown:
        rules = self.film_rules(embedding)
        if any(size != film.sizes[0] for size in film.sizes):
            raise InvalidInputError("video", "the frames differ in size")
        total = rules.total_pixels
        if not film.seconds:  # it is a list of frames
            total = rules.list_total_pixels
            film = self._thinned(film, rules)
            if rules.list_first is not None:
                film = film.resized(self._fitting(film.sizes[0], rules.list_first))
        area = self._area(embedding)
        least, most = rules.min_pixels or area.min_pixels, rules.max_pixels or area.max_pixels
        if total is not None:
            frames = len(film) + len(film) % self.temporal_patch_size
            share = total // frames * self.temporal_patch_size
            most = max(min(most, share), int(least * ABOVE_LEAST))
        size = self._fitting(film.sizes[0], Area(self.token_side, least, most))
        return replace(self.shown("video", film, size), step=self.film_step(film))

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

    def _fitting(self, size: tuple[int, int], area: Area) -> tuple[int, int]:
        """Finds the width and height to resize ``size`` to."""
        width, height = size
        found = smart_resize(height, width, area.factor, area.min_pixels, area.max_pixels)
        return found[1], found[0]

    def shown(
        self, kind: Literal["image", "video"], pictures: Pictures, size: tuple[int, int]
    ) -> Shown:
        """Resizes an image or film to ``size``, a multiple of a token's side."""
        time = math.ceil(len(pictures) / self.temporal_patch_size)
        width, height = size
        grid = time, height // self.token_side, width // self.token_side
        # Pillow's default filter is the model's own, bicubic.
        return Shown(kind, pictures.resized(size), grid)


def smart_resize(
    height: int, width: int, factor: int, min_pixels: int, max_pixels: int
) -> tuple[int, int]:
    """Finds the height and width to resize to: multiples of ``factor``, with a pixel count
    between the bounds and the aspect ratio as near as it gets (Qwen2-VL's rule, arXiv:2409.12191).
    """
    new_height = max(factor, round(height / factor) * factor)
    new_width = max(factor, round(width / factor) * factor)
    if new_height * new_width > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        new_height = max(factor, math.floor(height / scale / factor) * factor)
        new_width = max(factor, math.floor(width / scale / factor) * factor)
    elif new_height * new_width < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        new_height = math.ceil(height * scale / factor) * factor
        new_width = math.ceil(width * scale / factor) * factor
    return new_height, new_width


def _positions(length: int, spans: Sequence[Span]) -> npt.NDArray[np.int32]:
    """Makes M-RoPE's positions ``(3, length)`` for media at ``spans``.

    Inside a span a token has its place in the grid; outside the tokens are counted, and counting
    goes on after a span at one more than the largest position in it.
    """
    if not spans:
        return in_order(length)
    pieces: list[npt.NDArray[np.int_]] = []
    done = position = 0
    for span in spans:
        count = span.start - done
        pieces.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
        position += count
        places = np.indices(span.shown.grid).reshape(3, -1)
        places[0] *= span.shown.step
        pieces.append(places + position)
        done = span.start + places.shape[1]
        position += int(places.max()) + 1
    count = length - done
    pieces.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
    return np.concatenate(pieces, axis=1).astype(np.int32)
