"""Inputs of the public API to requests, checked and with their media measured."""

from typing import Any

import numpy as np

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.audio import RATES, measure_audio, raw_audio
from vlm2vec_service.preprocess.images import EncodedImage, measure_image
from vlm2vec_service.preprocess.pictures import MAX_FPS, MIN_FPS, Frames, VideoSource
from vlm2vec_service.preprocess.prepared import AudioSource, Medium, Request
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.preprocess.stop import NEVER, Stop
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits

SAMPLE_FORMATS: dict[int, np.dtype[Any]] = {
    pb.SAMPLE_FORMAT_UNSPECIFIED: np.dtype("<f4"),
    pb.SAMPLE_FORMAT_FLOAT32: np.dtype("<f4"),
    pb.SAMPLE_FORMAT_INT16: np.dtype("<i2"),
}
"""The dtype of samples of each format."""
MOST = {medium.value: f"max_{medium.value}s" for medium in Medium}
"""The limit on how many parts of a kind an input may have."""


def modality(message: pb.Input) -> str:
    """Says which kinds of parts ``message`` has, by one of the names in `metrics.MODALITIES`."""
    kinds = {part.WhichOneof("part") for part in message.parts}
    if kinds.isdisjoint(MOST):
        return "text"
    seen = "video" if "video" in kinds else "image" if "image" in kinds else ""
    heard = "audio" if "audio" in kinds else ""
    says = "text" in kinds or message.prompt or message.instruction
    return "_".join(kind for kind in (seen, heard, "text" if says else "") if kind)


def parse_input(
    message: pb.Input,
    limits: Limits,
    frames: int | Sampling,
    stop: Stop = NEVER,
    truncate: int | None = None,
) -> Request:
    """Turns one input into a `Request` and measures its media.

    ``frames`` says which frames to sample from a video file, or how many; ``stop`` says until when
    media are measured, and decoded later; ``truncate`` is as in `Request`. Raises
    `InvalidInputError` that names the part at fault, and what `Stop.check` does.
    """
    images: list[EncodedImage] = []
    parts: list[str | Medium] = []
    videos: list[Frames | VideoSource] = []
    audios: list[AudioSource] = []
    prompt = message.prompt if message.HasField("prompt") else None
    given = list(message.parts)
    kinds: list[str | None] = [part.WhichOneof("part") for part in given]
    for medium, limit in MOST.items():
        if (count := kinds.count(medium)) > (most := getattr(limits, limit)):
            raise InvalidInputError("parts", f"{count} {medium}s, {limit} {most}")
    for index, (kind, part) in enumerate(zip(kinds, given, strict=True)):
        place = f"parts[{index}]"
        if kind == "text":
            if prompt is not None:
                raise InvalidInputError(
                    f"{place}.text", "beside a prompt: write it into the prompt"
                )
            parts.append(part.text)
        elif kind == "image":
            images.append(measure_image(part.image, limits, f"{place}.image", stop))
            parts.append(Medium.IMAGE)
        elif kind == "video":
            videos.append(_video(part.video, limits, frames, f"{place}.video", stop))
            parts.append(Medium.VIDEO)
        elif kind == "audio":
            audios.append(_audio(part.audio, limits, f"{place}.audio", stop))
            parts.append(Medium.AUDIO)
        else:
            raise InvalidInputError(place, "empty: set text, image, video or audio")
    return Request(
        prompt=prompt,
        instruction=message.instruction or None,
        parts=tuple(parts),
        images=tuple(images),
        videos=tuple(videos),
        audios=tuple(audios),
        token_ids=tuple(message.token_ids),
        truncate=truncate,
    )


def _video(
    message: pb.Video, limits: Limits, frames: int | Sampling, field: str, stop: Stop
) -> Frames | VideoSource:
    source = message.WhichOneof("source")
    if source == "file":
        return sample_video(message.file, frames, limits, f"{field}.file", stop)
    if source is None or not message.frames.images:
        raise InvalidInputError(field, "empty: set file or frames")
    if len(message.frames.images) > limits.max_video_frames:
        raise InvalidInputError(
            f"{field}.frames",
            f"{len(message.frames.images)} frames, max_video_frames {limits.max_video_frames}",
        )
    fps = message.frames.fps or None
    if fps is not None and not MIN_FPS <= fps <= MAX_FPS:
        raise InvalidInputError(
            f"{field}.frames.fps", f"{fps} is not in {MIN_FPS:g} to {MAX_FPS:g}"
        )
    pictures = tuple(
        measure_image(data, limits, f"{field}.frames.images[{index}]", stop)
        for index, data in enumerate(message.frames.images)
    )
    return Frames(pictures, fps)


def _audio(message: pb.Audio, limits: Limits, field: str, stop: Stop) -> AudioSource:
    source = message.WhichOneof("source")
    if source == "file":
        return measure_audio(message.file, limits, f"{field}.file", stop)
    if source is None:
        raise InvalidInputError(field, "empty: set file or samples")
    return _samples(message.samples, limits, f"{field}.samples")


def _samples(message: pb.Samples, limits: Limits, field: str) -> AudioSource:
    if message.format not in SAMPLE_FORMATS:
        raise InvalidInputError(f"{field}.format", f"{message.format} is no format of samples")
    dtype = SAMPLE_FORMATS[message.format]
    if not RATES[0] <= message.rate <= RATES[1]:
        raise InvalidInputError(
            f"{field}.rate", f"{message.rate} is not in {RATES[0]} to {RATES[1]}"
        )
    channels = message.channels or 1
    if channels > limits.max_audio_channels:
        raise InvalidInputError(
            f"{field}.channels",
            f"{channels} are more than max_audio_channels, {limits.max_audio_channels}",
        )
    if len(message.data) > limits.max_audio_bytes:
        raise InvalidInputError(
            f"{field}.data",
            f"{len(message.data)} bytes are more than max_audio_bytes, {limits.max_audio_bytes}",
        )
    if len(message.data) % (width := channels * dtype.itemsize):
        raise InvalidInputError(
            f"{field}.data", f"{len(message.data)} bytes are no multiple of {width}, a moment's"
        )
    samples = np.frombuffer(message.data, dtype).reshape(-1, channels)
    return raw_audio(samples, message.rate, limits, field)
