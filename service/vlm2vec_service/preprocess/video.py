"""Video files to uniformly sampled RGB frames, through PyAV."""

import io
from collections.abc import Iterator

import av
import numpy as np
from PIL import Image

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.images import check_size
from vlm2vec_service.settings import Limits


def sample_video(
    data: bytes, count: int, limits: Limits, field: str = "video"
) -> tuple[Image.Image, ...]:
    """Decodes ``count`` frames of the first video stream in ``data``.

    Frame ``floor(i * (n - 1) / (count - 1))`` of ``n`` is taken for each ``i``, as the models
    were trained; a video with fewer frames than ``count`` gives all it has. It is decoded twice,
    to count and then to keep, so memory holds ``count`` frames however long it is. Raises
    `InvalidInputError` naming ``field``.
    """
    if len(data) > limits.max_video_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_video_bytes, {limits.max_video_bytes}"
        )
    if not 1 <= count <= limits.max_video_frames:
        raise InvalidInputError(
            field, f"{count} frames are not in 1 to max_video_frames, {limits.max_video_frames}"
        )
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
        frame.to_image().convert("RGB")
        for index, frame in enumerate(_frames(data, limits, field))
        if index in wanted
    )


def _frames(data: bytes, limits: Limits, field: str) -> Iterator[av.VideoFrame]:
    try:
        with av.open(io.BytesIO(data)) as container:
            if not container.streams.video:
                raise InvalidInputError(field, "the file has no video stream")
            stream = container.streams.video[0]
            if stream.width * stream.height > limits.max_image_pixels:
                raise InvalidInputError(
                    field,
                    f"frames of {stream.width}x{stream.height} pixels are more than "
                    f"max_image_pixels, {limits.max_image_pixels}",
                )
            yield from container.decode(stream)
    except (av.FFmpegError, ValueError) as error:
        raise InvalidInputError(field, f"undecodable video: {error}") from error
