"""Video files to RGB frames, sampled uniformly and decoded by PyAV."""

import io
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.settings import Limits

FORMATS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,gif"
"""The containers that are read, by FFmpeg's names (mov is mp4 too, matroska is webm). Playlists
are not among them: they name other files, which FFmpeg would open on the machine that decodes."""
CODECS = {
    "av1", "flv1", "gif", "h263", "h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4",
    "msmpeg4v2", "msmpeg4v3", "prores", "theora", "vc1", "vp8", "vp9", "wmv1", "wmv2", "wmv3",
}  # fmt: skip
"""The codecs that are decoded. FFmpeg's rarer decoders give pixel formats that its conversion to
RGB does not know, of which one even ends the process."""


def sample_video(
    data: bytes, count: int, limits: Limits, field: str = "video"
) -> tuple[Image.Image, ...]:
    """Decodes ``count`` frames of the first video stream in ``data``.

    Frame ``floor(i * (n - 1) / (count - 1))`` of ``n`` is taken for each ``i``, as the models
    were trained; a video with fewer frames than ``count`` gives all it has. The file is decoded
    twice, to count the frames and then to keep some, so that memory holds ``count`` frames
    however long the video is. Raises `InvalidInputError` that names ``field``.
    """
    if len(data) > limits.max_video_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_video_bytes, {limits.max_video_bytes}"
        )
    if not 1 <= count <= limits.max_video_frames:
        raise InvalidInputError(
            field, f"{count} frames are not in 1 to max_video_frames, {limits.max_video_frames}"
        )
    try:
        return _sample(data, count, limits, field)
    except (av.FFmpegError, ValueError) as error:
        raise InvalidInputError(field, f"undecodable video: {error}") from error


def _sample(data: bytes, count: int, limits: Limits, field: str) -> tuple[Image.Image, ...]:
    total = 0
    for _ in _frames(data, limits, field):
        total += 1
        if total > limits.max_video_decoded_frames:
            raise InvalidInputError(
                field,
                f"more frames than max_video_decoded_frames, {limits.max_video_decoded_frames}",
            )
    if not total:
        raise InvalidInputError(field, "the video holds no frame")
    wanted = set(np.linspace(0, total - 1, min(count, total), dtype=int).tolist())
    return tuple(
        Image.fromarray(frame.to_ndarray(format="rgb24"))
        for index, frame in enumerate(_frames(data, limits, field))
        if index in wanted
    )


def _frames(data: bytes, limits: Limits, field: str) -> Iterator[av.VideoFrame]:
    options = {"format_whitelist": FORMATS}
    with av.open(io.BytesIO(data), mode="r", options=options) as container:
        if not container.streams.video:
            raise InvalidInputError(field, "the file has no video stream")
        stream = container.streams.video[0]
        context = stream.codec_context  # None where FFmpeg knows no decoder
        codec = context.codec.canonical_name if context else "unknown"
        if codec not in CODECS:
            raise InvalidInputError(
                field, f"the codec {codec} is none of {', '.join(sorted(CODECS))}"
            )
        if context.width * context.height > limits.max_image_pixels:
            raise InvalidInputError(
                field,
                f"frames of {context.width}x{context.height} pixels are more than "
                f"max_image_pixels, {limits.max_image_pixels}",
            )
        yield from container.decode(stream)
