"""Bytes and prompts to token ids and uint8 pixels, without torch.

``images`` and ``video`` decode, ``prompts`` renders an instruction and its parts, and a
preprocessor (``qwen2_vl`` or ``phi3_v``) joins both into a `Prepared` input: token ids with the
media positions expanded, and pixels already resized. Everything after that (rescaling,
normalising, cutting patches) happens on the engine's device.
"""

from vlm2vec_service.preprocess.load import Preprocessor, load_preprocessor
from vlm2vec_service.preprocess.prepared import Media, Prepared, Request

__all__ = ["Media", "Prepared", "Preprocessor", "Request", "load_preprocessor"]
