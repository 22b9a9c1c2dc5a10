"""Checks of one input against `Limits`, which hold for every model family."""

from collections.abc import Collection, Sequence

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.images import check_pixels, check_size
from vlm2vec_service.preprocess.pictures import Pictures
from vlm2vec_service.settings import Limits


def check_media(images: Sequence[Pictures], videos: Sequence[Pictures], limits: Limits) -> None:
    """Refuses too many images, videos or frames of one, any picture of too many pixels, and too
    many pixels in all of them.

    Raises `InvalidInputError` that names the field and the limit.
    """
    if len(images) > limits.max_images:
        raise InvalidInputError(
            "images", f"{len(images)} are more than max_images, {limits.max_images}"
        )
    if len(videos) > limits.max_videos:
        raise InvalidInputError(
            "video", f"{len(videos)} are more than max_videos, {limits.max_videos}"
        )
    if not all(map(len, videos)):
        raise InvalidInputError("video", "a video has no frames")
    frames = max(map(len, videos), default=0)
    if frames > limits.max_video_frames:
        raise InvalidInputError(
            "video", f"{frames} frames are more than max_video_frames, {limits.max_video_frames}"
        )
    for name, media in (("images", images), ("video", videos)):
        sizes = [size for one in media for size in one.sizes]
        for index, size in enumerate(sizes):
            check_size(size, limits, f"{name}[{index}]")
        check_pixels(sum(width * height for width, height in sizes), limits, name)


def check_audios(audios: int, limits: Limits) -> None:
    """Refuses more ``audios`` than there may be. Raises `InvalidInputError`."""
    if audios > limits.max_audios:
        raise InvalidInputError("audio", f"{audios} are more than max_audios, {limits.max_audios}")


def check_tokens(count: int, limits: Limits) -> None:
    """Refuses an input whose ``count`` of tokens is more than ``limits.max_tokens``.

    Raises `InvalidInputError`.
    """
    if count > limits.max_tokens:
        raise InvalidInputError(
            "input",
            f"{count} tokens are more than max_tokens, {limits.max_tokens}; "
            "shorten the text, ask for truncation, or use fewer or smaller images",
        )


def check_token_ids(token_ids: Sequence[int], vocabulary: int, reserved: Collection[int]) -> None:
    """Refuses ids that are not below ``vocabulary``, for which the model has no embedding, and
    ids in ``reserved``, which stand for media. Raises `InvalidInputError` that names the id.
    """
    for index, token in enumerate(token_ids):
        if token >= vocabulary:
            raise InvalidInputError(
                f"token_ids[{index}]",
                f"{token} is not in the model's vocabulary of {vocabulary}; "
                "ids have to be those of its own tokenizer",
            )
        if token in reserved:
            raise InvalidInputError(
                f"token_ids[{index}]", f"{token} stands for media; write a raw prompt to place it"
            )
