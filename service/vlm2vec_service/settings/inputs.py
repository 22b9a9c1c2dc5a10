"""What an input may cost, and how a video becomes frames."""

from dataclasses import dataclass

from vlm2vec_service.settings.field import count, setting


@dataclass(frozen=True)
class Limits:
    """What one input may cost. Whatever is larger is refused, with the limit in the message."""

    max_tokens: int = count(8192, "Tokens per input, those of media included.")
    max_text_bytes: int = count(262_144, "Bytes of prompt, instruction or text per input.")
    max_parts: int = count(256, "Parts per input: texts, images, videos, audios.")
    max_images: int = setting(16, "Images per input.", least=0)
    max_image_bytes: int = count(20_971_520, "Bytes per encoded image.")
    max_image_pixels: int = count(50_000_000, "Pixels per image, before any resizing.")
    max_decoded_pixels: int = count(
        5_000_000_000,
        "Pixels of an input's images together, and of the frames of its video that are decoded. Of "
        "a file with H.264, HEVC, VP9 or AV1 in MP4, MOV, Matroska or WebM those are the frames "
        "from a key frame to each that is sampled: 4 billion for eight of 1920x1080 with a key "
        "frame every 250, however long the film is. Of any other file they are all.",
    )
    max_videos: int = setting(4, "Videos per input.", least=0)
    max_video_bytes: int = count(52_428_800, "Bytes per encoded video.")
    max_video_frames: int = count(64, "Frames that a video may keep.")
    max_video_decoded_frames: int = count(
        20_000, "Frames a video file may hold; they are decoded to sample from them."
    )
    max_audios: int = setting(4, "Audios per input.", least=0)
    max_audio_bytes: int = count(52_428_800, "Bytes per encoded audio, or of its samples.")
    max_audio_seconds: int = count(
        300,
        "Seconds of an audio that a model may take. Of a longer one the model takes its first ones "
        "and the rest is not decoded.",
    )
    max_audio_channels: int = count(32, "Channels of an audio, which are mixed to one.")


@dataclass(frozen=True)
class VideoSettings:
    """How frames are taken from a video file."""

    video_frames: int = count(8, "Frames sampled uniformly from a video file.")
