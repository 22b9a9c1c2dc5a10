"""Qwen2-VL: prompts, pictures and video to token ids, positions and resized pixels."""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.family import CheckpointFiles, FamilyPreprocessor
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Draft, Media, Prepared, Request, in_order
from vlm2vec_service.preprocess.tokens import Prompt, cut_text
from vlm2vec_service.settings import Limits

IMAGE, VIDEO = "<|image_pad|>", "<|video_pad|>"
MAX_ASPECT_RATIO = 200
"""An image whose one side is longer than so many times the other is refused, as by the model's
own processor."""


class Qwen2VLPreprocessor(FamilyPreprocessor):
    """Prepares inputs for a Qwen2-VL checkpoint.

    A placeholder takes the next image or video. Its tokens get plain sequential positions, which
    is what VLM2Vec was trained with, unless it stands behind ``<|vision_start|>``: then they get
    M-RoPE's temporal, height and width positions.
    """

    reserved_text = (IMAGE, VIDEO)

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
        """Lists the images first, and one placeholder for the frames of the video."""
        return [IMAGE] * len(request.images) + [VIDEO] * bool(request.video)

    def draft(
        self,
        prompt: Prompt,
        images: Sequence[Pictures],
        video: Pictures,
        embedding: EmbeddingConfig,
    ) -> Draft:
        """Repeats each placeholder's id as often as its image or video has tokens."""
        ids = prompt.encode(prompt.text)
        self._check_placeholders(ids, len(images), bool(video))
        if not ids:
            raise InvalidInputError("text", "the prompt has no tokens")

        kept = cut_text(ids, prompt.max_text_tokens, self.uncut_ids)
        if not images and not video:
            return Draft(len(kept), len(kept) < len(ids), lambda: Prepared.in_sequence(kept))

        padded = [self._image(image, i) for i, image in enumerate(images)]
        sources = {self.image_id: iter(padded), self.video_id: iter([video])}
        token_ids: list[int] = []
        spans: list[tuple[int, Pictures, tuple[int, int, int], bool]] = []
        previous = -1
        for token in kept:
            if token in sources:
                frames = next(sources[token])
                grid = self._grid(frames, embedding, "video" if token == self.video_id else "image")
                spans.append((len(token_ids), frames, grid, previous == self.vision_start_id))
                token_ids.extend([token] * math.prod(grid))
            else:
                token_ids.append(token)
            previous = token

        def finish() -> Prepared:
            media = tuple(
                self._media(token_ids[start], frames, grid, start)
                for start, frames, grid, _ in spans
            )
            positions = _positions(
                len(token_ids), [(start, grid) for start, _, grid, spatial in spans if spatial]
            )
            return Prepared(np.asarray(token_ids, np.int32), positions, media)

        return Draft(len(token_ids), len(kept) < len(ids), finish)

    def _check_placeholders(self, ids: Sequence[int], images: int, video: bool) -> None:
        for token, name, field, count in (
            (self.image_id, IMAGE, "images", images),
            (self.video_id, VIDEO, "video", int(video)),
        ):
            if ids.count(token) != count:
                raise InvalidInputError(
                    field, f"{count} given, but the prompt has {ids.count(token)} {name}"
                )

    def _image(self, image: Pictures, index: int) -> Pictures:
        width, height = image.sizes[0]
        if max(width, height) > MAX_ASPECT_RATIO * min(width, height):
            raise InvalidInputError(
                f"images[{index}]", f"{width}x{height} is longer than {MAX_ASPECT_RATIO} to 1"
            )
        # Upstream's rule for pictures that are smaller than one token.
        if width < self.token_side or height < self.token_side:
            return image.resized((2 * self.token_side, 2 * self.token_side))
        return image

    def _grid(
        self, frames: Pictures, embedding: EmbeddingConfig, field: str
    ) -> tuple[int, int, int]:
        """Counts the tokens in time, height and width."""
        width, height = frames.sizes[0]
        if any(size != (width, height) for size in frames.sizes):
            raise InvalidInputError(field, "the frames differ in size")
        height, width = smart_resize(
            height,
            width,
            self.token_side,
            embedding.image.get("min_pixels", self.min_pixels),
            embedding.image.get("max_pixels", self.max_pixels),
        )
        time = math.ceil(len(frames) / self.temporal_patch_size)
        return time, height // self.token_side, width // self.token_side

    def _media(self, token: int, frames: Pictures, grid: tuple[int, int, int], start: int) -> Media:
        # Pillow's default filter is the model's own, bicubic.
        resized = frames.resized((grid[2] * self.token_side, grid[1] * self.token_side))
        pixels = np.stack([np.asarray(frame) for frame in resized])
        return Media.of(
            "image" if token == self.image_id else "video", pixels, start, math.prod(grid)
        )


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


def _positions(
    length: int, spans: Sequence[tuple[int, tuple[int, int, int]]]
) -> npt.NDArray[np.int32]:
    """Makes M-RoPE's positions ``(3, length)`` for media at ``spans``: a start and a grid each.

    Inside a span a token has its place in the grid; outside the tokens are counted, and counting
    goes on after a span at one more than the largest position in it.
    """
    if not spans:
        return in_order(length)
    pieces: list[npt.NDArray[np.int_]] = []
    done = position = 0
    for start, grid in spans:
        count = start - done
        pieces.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
        position += count
        pieces.append(np.indices(grid).reshape(3, -1) + position)
        done = start + math.prod(grid)
        position += max(grid)
    count = length - done
    pieces.append(np.broadcast_to(np.arange(position, position + count), (3, count)))
    return np.concatenate(pieces, axis=1).astype(np.int32)
