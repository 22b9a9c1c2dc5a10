"""Qwen2.5-Omni: prompts, pictures, films and audio to token ids, positions, pixels and log-mel."""

import itertools
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import ImageRules, VideoRules
from vlm2vec_service.backbones.qwen_vl.placing import Shown
from vlm2vec_service.backbones.qwen_vl.preprocess import QwenVLPreprocessor
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.family import CheckpointFiles
from vlm2vec_service.preprocess.limits import check_tokens
from vlm2vec_service.preprocess.log_mel import HOP, WINDOW, log_mel
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.preprocess.prepared import AudioSource, Medium, Request
from vlm2vec_service.preprocess.resample import RATE
from vlm2vec_service.settings import Limits

MOST_SECONDS = 300.0
"""Seconds of an audio that the model's own processor takes."""
BRACKETED = re.compile(r"(?:<\|audio_bos\|>)?<\|AUDIO\|>(?:<\|audio_eos\|>)?")
"""An audio's placeholder in a prompt, with the brackets around it."""


@dataclass(frozen=True)
class Decoded:
    """An audio of which the first samples ``taken`` are decoded: float32 ``(n,)`` at `RATE`."""

    taken: npt.NDArray[np.float32]

    def samples(self, seconds: float) -> npt.NDArray[np.float32]:
        """Returns the first ``seconds`` of them."""
        return self.taken[: int(seconds * RATE)]


class Qwen2_5OmniPreprocessor(QwenVLPreprocessor):
    """Prepares inputs for the thinker of a Qwen2.5-Omni checkpoint, or one that was saved alone.

    Pictures and films behind ``<|vision_bos|>`` have the positions of a grid, in which a second is
    ``position_id_per_seconds``; tokens of audio are counted like text.
    """

    reserved_text = ("<|IMAGE|>", "<|VIDEO|>", "<|AUDIO|>")
    takes = ("image", "video", "audio")
    enlarges = False
    pictures = ImageRules(decode="raw")
    films = VideoRules(assumed_fps=2.0)

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        config = files.config.get("thinker_config", files.config)
        first = {kind: f"{kind}_token_index" for kind in self.takes}  # in the first checkpoints
        ids = {f"{kind}_token_id": config[key] for kind, key in first.items() if key in config}
        super().__init__(replace(files, config=config | ids), limits)
        self.bands: int = config["audio_config"]["num_mel_bins"]
        self.positions_per_second: float = config.get("position_id_per_seconds", 25)

    def film_times(self, film: Pictures, steps: int) -> Sequence[int]:
        """Counts the positions of the seconds before each step, cut off at whole positions, in
        single precision as in ``transformers``."""
        assert film.fps is not None
        seconds = np.float32(self.temporal_patch_size / film.fps)
        times = np.arange(steps, dtype=np.float32) * seconds
        found: list[int] = (times * np.float32(self.positions_per_second)).astype(int).tolist()
        return found

    def heard(self, request: Request, embedding: EmbeddingConfig) -> Request:
        """Decodes the head of each audio; of those that are too short, it leaves out the audio with
        its placeholder and brackets, or refuses it, as ``embedding`` says."""
        kept: list[AudioSource] = []
        dropped: set[int] = set()
        tokens = 0
        for index, audio in enumerate(request.audios):
            field = getattr(audio, "field", f"audio[{index}]")
            samples = self._head(audio, embedding.audio_max_seconds or MOST_SECONDS, field)
            if len(samples) >= WINDOW:
                kept.append(Decoded(samples))
                tokens += token_count(len(samples))
                check_tokens(tokens, self.limits)  # before the next one takes memory
            elif embedding.audio_short == "drop":
                dropped.add(index)
            else:
                raise InvalidInputError(
                    field,
                    f"{len(samples)} samples at 16 kHz are too short; the model takes {WINDOW}",
                )
        return replace(_without(request, dropped), audios=tuple(kept))

    def sound(self, audio: AudioSource) -> Shown:
        """Counts the tokens of ``audio``, and makes its log-mel when it is wanted."""
        samples = audio.samples(self.limits.max_audio_seconds)
        grid = (1, 1, token_count(len(samples)))
        return Shown("audio", grid, lambda: log_mel(samples, self.bands))

    def _head(self, audio: AudioSource, seconds: float, field: str) -> npt.NDArray[np.float32]:
        """Decodes the first ``seconds``. Raises `InvalidInputError` where they are more than an
        input may have."""
        most = self.limits.max_audio_seconds
        samples = audio.samples(min(seconds, most + 1))
        if len(samples) > most * RATE:
            raise InvalidInputError(
                field,
                f"the model takes {seconds:g} seconds of it, more than max_audio_seconds, {most}",
            )
        return samples


def token_count(samples: int) -> int:
    """Counts the tokens of an audio of so many ``samples``: a convolution takes every second frame
    of the log-mel, and pairs of what is left are one token."""
    frames = -(-samples // HOP)
    return ((frames - 1) // 2 + 1 - 2) // 2 + 1


def _without(request: Request, dropped: Collection[int]) -> Request:
    """Leaves the audios ``dropped`` out of the parts and the raw prompt of ``request``, unless its
    prompt has no place for them."""
    if not dropped:
        return request
    places = itertools.count()
    parts = tuple(
        part for part in request.parts if part != Medium.AUDIO or next(places) not in dropped
    )
    prompt = request.prompt
    if prompt is not None and len(BRACKETED.findall(prompt)) == len(request.audios):
        marks = itertools.count()
        prompt = BRACKETED.sub(lambda one: "" if next(marks) in dropped else one[0], prompt)
    return replace(request, parts=parts, prompt=prompt)
