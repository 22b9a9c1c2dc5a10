"""Bytes and prompts to token ids and uint8 pixels, without torch: what all backbones share.

``messages`` reads a caller's message, ``images`` and ``video`` decode, ``prompts`` renders an
instruction and its parts, ``limits`` refuses what is too large. A family's own ``preprocess``
(under ``backbones``) joins them into a `Prepared` input: token ids with the media positions
expanded, and pixels already resized. Everything after that (rescaling, normalising, cutting
patches) happens on the engine's device.
"""

from vlm2vec_service.preprocess.prepared import Media, Prepared, Preprocessor, Request

__all__ = ["Media", "Prepared", "Preprocessor", "Request"]
