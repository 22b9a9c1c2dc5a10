"""Checks of one input against `Limits`, shared by the backbones."""

from collections.abc import Collection, Sequence

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.images import check_size
from vlm2vec_service.preprocess.prepared import Request
from vlm2vec_service.settings import Limits


def check_media(request: Request, limits: Limits) -> None:
    """Refuses too many images or frames, and pictures of too many pixels."""
    if len(request.images) > limits.max_images:
        raise InvalidInputError(
            "images", f"{len(request.images)} are more than max_images, {limits.max_images}"
        )
    if len(request.video) > limits.max_video_frames:
        raise InvalidInputError(
            "video",
            f"{len(request.video)} frames are more than max_video_frames, "
            f"{limits.max_video_frames}",
        )
    for name, pictures in (("images", request.images), ("video", request.video)):
        for index, picture in enumerate(pictures):
            check_size(picture, limits, f"{name}[{index}]")


def check_tokens(count: int, limits: Limits) -> None:
    """Refuses an input of more than ``limits.max_tokens`` tokens."""
    if count > limits.max_tokens:
        raise InvalidInputError(
            "input",
            f"{count} tokens are more than max_tokens, {limits.max_tokens}; "
            "shorten the text or use fewer or smaller images",
        )


def check_token_ids(token_ids: Sequence[int], vocabulary: int, reserved: Collection[int]) -> None:
    """Refuses ids that the model has no embedding for, or that stand for media."""
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
