"""Qwen2-VL: prompts, pictures and films to token ids, positions and resized pixels."""

from vlm2vec_service.backbones.qwen_vl.preprocess import QwenVLPreprocessor


class Qwen2VLPreprocessor(QwenVLPreprocessor):
    """Prepares inputs for a Qwen2-VL checkpoint: a step in time of a film is one position."""
