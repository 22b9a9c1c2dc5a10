"""Qwen3-VL: prompts, pictures and films to token ids, positions and resized pixels."""

import re
from collections.abc import Sequence
from dataclasses import replace

from vlm2vec_registry.media_rules import Area, VideoRules
from vlm2vec_service.backbones.qwen_vl.placing import Shown
from vlm2vec_service.backbones.qwen_vl.preprocess import QwenVLPreprocessor
from vlm2vec_service.preprocess.family import CheckpointFiles
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import Kind
from vlm2vec_service.preprocess.tokens import Prompt
from vlm2vec_service.settings import Limits

START, VIDEO, END = "<|vision_start|>", "<|video_pad|>", "<|vision_end|>"
LEAST, MOST = 4, 1800
"""Tokens of a picture, as the authors of Qwen3-VL-Embedding want them."""


class Qwen3VLPreprocessor(QwenVLPreprocessor):
    """Prepares inputs for a Qwen3-VL checkpoint: a film is its pairs of frames, each in brackets
    behind the time at which it is shown.

    What ``embedding.json`` does not say of pictures and films is as in Qwen3-VL-Embedding's code
    (QwenLM/Qwen3-VL-Embedding), not as in ``preprocessor_config.json``, which that code overrides.
    """

    enlarges = False
    rounds_up = True
    films = VideoRules(
        fps=1.0, min_frames=4, max_frames=64, assumed_fps=2.0,
        min_pixels=128 * 32**2, max_pixels=768 * 32**2,
        total_pixels=117_964_800, list_total_pixels=7_864_320,
        list_first=Area(64, 4 * 64**2, 16_384 * 64**2),
    )  # fmt: skip

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        super().__init__(files, limits)
        self.min_pixels, self.max_pixels = (n * self.token_side**2 for n in (LEAST, MOST))

    def with_films(self, prompt: Prompt, films: Sequence[Shown]) -> str:
        """Puts the stamped pairs of each film in the place of its placeholder, and of the brackets
        around that."""
        start, pad, end = (prompt.spell(token) for token in (START, VIDEO, END))
        bracketed = "|".join(map(re.escape, (start + pad + end, pad)))
        stamps = iter([
            "".join(f"<{seconds:.1f} seconds>{start}{pad}{end}" for seconds in film.stamps)
            for film in films
        ])  # fmt: skip
        return re.sub(bracketed, lambda _: next(stamps), prompt.text)

    def shown(self, kind: Kind, pictures: Pictures, size: tuple[int, int]) -> Shown:
        """Gives each pair of frames a placeholder of its own."""
        shown = super().shown(kind, pictures, size)
        pairs, height, width = shown.grid
        stamps = _stamps(pictures, pairs) if kind == "video" else ()
        return replace(shown, grid=(1, height, width), places=pairs, stamps=stamps)


def _stamps(film: Pictures, pairs: int) -> list[float]:
    """Computes the middle of each pair's two times, in seconds."""
    count = 2 * pairs
    if film.seconds:
        times = [*film.seconds, film.seconds[-1]][:count]
    else:
        assert film.fps is not None
        times = [index / film.fps for index in range(count)]
    return [(first + second) / 2 for first, second in zip(times[::2], times[1::2], strict=True)]
