"""Qwen2.5-VL: prompts, pictures and films to token ids, positions and resized pixels."""

from collections.abc import Sequence

from vlm2vec_registry.media_rules import ImageRules, VideoRules
from vlm2vec_service.backbones.qwen_vl.preprocess import QwenVLPreprocessor
from vlm2vec_service.preprocess.family import CheckpointFiles
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.settings import Limits


class Qwen2_5VLPreprocessor(QwenVLPreprocessor):
    """Prepares inputs for a Qwen2.5-VL checkpoint: positions of films count seconds.

    Pictures are as VLM2Vec's own code has them, where ``embedding.json`` has no rule for them.
    """

    pictures = ImageRules(decode="raw", long="square")
    films = VideoRules(assumed_fps=2.0)

    def __init__(self, files: CheckpointFiles, limits: Limits) -> None:
        super().__init__(files, limits)
        self.tokens_per_second: int = files.config["vision_config"].get("tokens_per_second", 4)

    def film_times(self, film: Pictures, steps: int) -> Sequence[int]:
        """Counts the whole seconds that a step in time takes: ``transformers`` cuts off the rest,
        so that from three frames a second on all frames are at one time."""
        assert film.fps is not None
        step = self.tokens_per_second * int(self.temporal_patch_size / film.fps)
        return [step * index for index in range(steps)]
