"""Inputs of the public API to requests, checked and with their pictures measured."""

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.images import EncodedImage, measure_image
from vlm2vec_service.preprocess.pictures import MAX_FPS, MIN_FPS, Frames, VideoSource
from vlm2vec_service.preprocess.prepared import Medium, Request
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.preprocess.stop import NEVER, Stop
from vlm2vec_service.preprocess.video import sample_video
from vlm2vec_service.settings import Limits


def modality(message: pb.Input) -> str:
    """Says which kinds of parts ``message`` has, by one of the names in `metrics.MODALITIES`."""
    kinds = {part.WhichOneof("part") for part in message.parts}
    media = "video" if "video" in kinds else "image" if "image" in kinds else ""
    text = "text" if "text" in kinds or message.prompt or message.instruction or not media else ""
    return "_".join(part for part in (media, text) if part)


def parse_input(
    message: pb.Input, limits: Limits, frames: int | Sampling, stop: Stop = NEVER
) -> Request:
    """Turns one input into a `Request` and measures its images and its videos.

    ``frames`` says which frames to sample from a video file, or how many; ``stop`` says until when
    the pictures are measured, and decoded later. Raises `InvalidInputError` that names the part at
    fault, and what `Stop.check` does.
    """
    images: list[EncodedImage] = []
    parts: list[str | Medium] = []
    videos: list[Frames | VideoSource] = []
    kinds = [part.WhichOneof("part") for part in message.parts]
    if (count := kinds.count("image")) > limits.max_images:
        raise InvalidInputError("parts", f"{count} images, max_images {limits.max_images}")
    if (count := kinds.count("video")) > limits.max_videos:
        raise InvalidInputError("parts", f"{count} videos, max_videos {limits.max_videos}")
    for index, part in enumerate(message.parts):
        place = f"parts[{index}]"
        kind = part.WhichOneof("part")
        if kind == "image":
            images.append(measure_image(part.image, limits, f"{place}.image", stop))
            parts.append(Medium.IMAGE)
        elif kind == "video":
            videos.append(_video(part.video, limits, frames, f"{place}.video", stop))
            parts.append(Medium.VIDEO)
        elif kind == "text":
            if message.HasField("prompt"):
                raise InvalidInputError(
                    f"{place}.text", "beside a prompt: write it into the prompt"
                )
            parts.append(part.text)
        else:
            raise InvalidInputError(place, "empty: set text, image or video")
    return Request(
        prompt=message.prompt if message.HasField("prompt") else None,
        instruction=message.instruction or None,
        parts=tuple(parts),
        images=tuple(images),
        videos=tuple(videos),
        token_ids=tuple(message.token_ids),
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
