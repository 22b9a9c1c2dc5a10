"""Writes prompts as upstream's evaluation of MMEB does, from instructions and texts.

Source: TIGER-AI-Lab/VLM2Vec, `process_input_text` in src/model/processor.py and the parsers
image_cls, image_qa, image_i2t, image_t2i and image_i2i_vg in src/data/eval_dataset. They differ in
white space alone, and white space changes a vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vlm2vec import Input
from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_service.backbones import FAMILIES
from vlm2vec_service.offline import mmeb

VIDEOS = {"<|image_pad|>": "<|video_pad|>"}
"""The placeholder of a video, by that of an image, in families that have videos."""


def placeholder(backbone: str) -> str:
    """Returns the image placeholder of ``backbone``. Raises `EvaluationError` if it is unknown."""
    if backbone not in FAMILIES:
        raise EvaluationError(
            f"backbone {backbone!r} has no known image placeholder; known are {', '.join(FAMILIES)}"
        )
    return FAMILIES[backbone].image_placeholder


def query(
    instruction: str, text: str, image: str | None, *, newline: bool, suffix: str = "\n"
) -> str:
    """Writes the prompt of a query; ``image`` is the backbone's placeholder.

    ``newline`` puts a line break behind the placeholder: for questions, grounding, and retrieval
    of images by an image. Without ``image`` the query is a text that looks for an image.
    """
    instruction = instruction.replace(mmeb.IMAGE, "")
    if image is None:
        return f"{instruction} {text}{suffix}"
    if newline:
        instruction = "\n" + instruction.strip()
    words = f"{instruction} {text}" if text else instruction
    return f"{image} {words}".replace(" \n", "\n") + suffix


def target(instruction: str, text: str, image: str | None, *, for_text: bool) -> str:
    """Writes the prompt of a candidate; ``for_text`` says that the queries have no image.

    A candidate without an image is its text alone. One with a caption of white space alone ends
    in a line break more where the queries are texts.
    """
    if image is None:
        return text
    words = instruction.replace(mmeb.IMAGE, "")
    suffix = "\n" if text.strip() or for_text else ""
    if text.strip():
        words = f"{words} {text}"
    return f"{image} {words}".replace(" \n", "\n") + suffix


@dataclass(frozen=True)
class Writer:
    """Writes the inputs of all data sets but MMEB v1's, which have one form.

    That form is the media's placeholder, a space, the instruction, and a space and the text where
    there is one. ``image`` and ``video`` are the placeholders, ``video`` None in a family without
    videos; with ``template`` the adapter's ``embedding.json`` joins the parts instead.
    """

    image: str
    video: str | None
    template: bool = False

    @classmethod
    def of(cls, backbone: str, prompts: str) -> "Writer":
        """Makes the writer for a backbone and for what a suite's ``prompts`` says.

        Raises `EvaluationError` if the backbone is unknown.
        """
        image = placeholder(backbone)
        return cls(image, VIDEOS.get(image), prompts == "template")

    def write(
        self,
        instruction: str = "",
        text: str = "",
        *,
        images: Sequence[Path | bytes] = (),
        video: Sequence[Path] = (),
        gap: str = " ",
    ) -> Input:
        """Writes one input. ``video`` is its frames, ``gap`` what stands behind a placeholder.

        Raises `UnsupportedError` for a video where the family has none.
        """
        if video and self.video is None:
            raise UnsupportedError("the backbone takes no video")
        frames = list(video) or None
        if self.template:
            return Input(
                instruction=instruction or None, text=text or None, images=list(images),
                video=frames,
            )  # fmt: skip
        words = f"{instruction} {text}" if instruction and text else instruction or text
        marks = [self.image] * len(images) + [self.video or ""] * bool(video)
        return Input(
            prompt="".join(mark + gap for mark in marks) + words, images=list(images), video=frames
        )
