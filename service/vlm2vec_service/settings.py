"""Settings as frozen dataclasses: every field is a documented flag and environment variable.

`setting` attaches the text that ``--help`` shows; `vlm2vec_service.options` turns a dataclass
into command-line options. Nothing here imports more than the standard library.
"""

from dataclasses import dataclass, field
from typing import Any


def setting(default: Any, help: str) -> Any:
    """A dataclass field with a default and the sentence that ``--help`` shows for it."""
    return field(default=default, metadata={"help": help})


@dataclass(frozen=True)
class Limits:
    """What one input may cost. Whatever is larger is refused, with the limit in the message."""

    max_tokens: int = setting(8192, "Tokens per input, image and video tokens included.")
    max_text_bytes: int = setting(262_144, "Bytes of prompt, instruction or text per input.")
    max_images: int = setting(16, "Images per input.")
    max_image_bytes: int = setting(20_971_520, "Bytes per encoded image.")
    max_image_pixels: int = setting(50_000_000, "Pixels per image, before any resizing.")
    max_video_bytes: int = setting(209_715_200, "Bytes per encoded video.")
    max_video_frames: int = setting(64, "Frames that an input's video may keep.")
    max_video_decoded_frames: int = setting(
        20_000, "Frames a video file may hold; they are decoded to sample from them."
    )


@dataclass(frozen=True)
class VideoSettings:
    """How frames are taken from a video file."""

    video_frames: int = setting(8, "Frames sampled uniformly from a video file.")


@dataclass(frozen=True)
class EngineSettings:
    """How the engine runs on its device."""

    device: str = setting("cpu", "Where to run: cpu, cuda or cuda:N.")
    dtype: str = setting(
        "bfloat16", "Arithmetic of the model: float32 or bfloat16. Vectors are always float32."
    )
    token_budget: int = setting(
        0,
        "Tokens per batch; a longer input gets a batch of its own. "
        "0 takes what the device likes: 2048 on a CPU, 16384 elsewhere.",
    )
    vision_batch_patches: int = setting(
        0,
        "Image patches that go through the vision tower at once. "
        "0 takes what the device likes: 2048 on a CPU, 65536 elsewhere.",
    )
    vision_cache_bytes: int = setting(
        268_435_456, "Bytes of device memory for cached image and video features; 0 turns it off."
    )
