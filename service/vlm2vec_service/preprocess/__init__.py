"""Bytes and prompts to token ids and uint8 pixels, without torch: what all families share.

``messages`` turns a caller's message into a `Request`; ``images`` and ``video`` measure what is in
it. A `Preprocessor` turns the request into a `Prepared` input: token ids in which every image and
video has its full number of tokens, and pixels already resized, for which the ``pictures`` are
decoded one at a time. Each model family has one, in ``backbones``; what they all do alike is in
``family``: refusing what is too large (``limits``), joining instruction and text to a prompt
(``prompts``), and keeping callers' words plain text (``tokens``). Everything after that (rescaling,
normalising, cutting patches) happens on the engine's device.
"""

from vlm2vec_service.preprocess.prepared import Media, Prepared, Preprocessor, Request

__all__ = ["Media", "Prepared", "Preprocessor", "Request"]
