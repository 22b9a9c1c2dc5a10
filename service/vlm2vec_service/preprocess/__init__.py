"""Bytes and prompts to token ids and uint8 pixels, without torch: what all families share.

``messages`` turns a caller's message into a `Request`; ``images`` and ``video`` decode what is in
it. A `Preprocessor` turns the request into a `Prepared` input: token ids in which every image and
video has its full number of tokens, and pixels already resized. Each model family has one, in
``backbones``; what they all do alike is in ``family``: refusing what is too large (``limits``) and
joining instruction and text to a prompt (``prompts``). Everything after that (rescaling,
normalising, cutting patches) happens on the engine's device.
"""

from vlm2vec_service.preprocess.prepared import Media, Prepared, Preprocessor, Request

__all__ = ["Media", "Prepared", "Preprocessor", "Request"]
