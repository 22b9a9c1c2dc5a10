"""Writes prompts as upstream's evaluation of MMEB does, from instructions and texts.

Source: TIGER-AI-Lab/VLM2Vec, `process_input_text` in src/model/processor.py and the parsers
image_cls, image_qa, image_i2t, image_t2i and image_i2i_vg in src/data/eval_dataset. They differ in
white space alone, and white space changes a vector.
"""

import functools
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from vlm2vec import Input
from vlm2vec_evaluation.errors import EvaluationError, UnsupportedError
from vlm2vec_service.backbones import FAMILIES
from vlm2vec_service.offline import mmeb

if TYPE_CHECKING:
    from vlm2vec.audio import AudioLike

Pixels: TypeAlias = npt.NDArray[np.uint8]
"""A picture ``(height, width, 3)``, RGB."""
VIDEO = "<|video_pad|>"
"""The placeholder of a video in families whose prompts are written here and that take videos."""


def placeholder(backbone: str) -> str:
    """Returns the image placeholder of ``backbone``. Raises `EvaluationError` if it is unknown."""
    if backbone not in FAMILIES:
        raise EvaluationError(
            f"backbone {backbone!r} has no known image placeholder; known are {', '.join(FAMILIES)}"
        )
    return FAMILIES[backbone].image_placeholder


@functools.cache
def takes(backbone: str) -> Collection[str]:
    """Returns the kinds of media that ``backbone`` takes: "image", "video", "audio".

    Raises `EvaluationError` if it is unknown.
    """
    placeholder(backbone)
    return FAMILIES[backbone].preprocessor_class().takes


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
    there is one; ``image`` is the placeholder of an image. ``takes`` are the kinds of media that
    the family takes. With ``template`` the adapter's ``embedding.json`` joins instruction and text
    instead. To a family that takes audio MMEB-V3 gives no placeholders: media, instruction and text
    go apart, the version's form puts them into its turns, and a video is so many images.
    """

    image: str
    takes: Collection[str]
    template: bool = False

    @classmethod
    def of(cls, backbone: str, prompts: str) -> "Writer":
        """Makes the writer for a backbone and for what a suite's ``prompts`` says.

        Raises `EvaluationError` if the backbone is unknown.
        """
        return cls(placeholder(backbone), takes(backbone), prompts == "template")

    @property
    def by_form(self) -> bool:
        """Whether the version's own form joins what MMEB's prompts are made of."""
        return "audio" in self.takes and not self.template

    def write(
        self,
        instruction: str = "",
        text: str = "",
        *,
        images: Sequence[Path | bytes] = (),
        video: Sequence[Path] | Sequence[Pixels] = (),
        audios: "Sequence[AudioLike]" = (),
        gap: str = " ",
        between: str = " ",
        moving: bool = False,
    ) -> Input:
        """Writes one input.

        ``video`` is its frames, ``gap`` what stands behind a placeholder and ``between`` what
        stands between instruction and text. A ``moving`` video is one for every family. Raises
        `UnsupportedError` for media that the family does not take.
        """
        for kind, given in (("video", video), ("audio", audios)):
            if len(given) and kind not in self.takes:
                raise UnsupportedError(f"the backbone takes no {kind}")
        frames: list[Path | Pixels] = list(video)
        if self.template:
            return Input(
                instruction=instruction or None, text=text or None, images=list(images),
                video=frames or None, audios=tuple(audios),
            )  # fmt: skip
        words = instruction + between + text if instruction and text else instruction or text
        if self.by_form:
            stills = [] if moving else frames
            if between != " ":  # a form has no other way to join them
                instruction, text = "", words
            return Input(
                instruction=instruction or None, text=text or None, images=[*images, *stills],
                video=(frames or None) if moving else None, audios=tuple(audios),
            )  # fmt: skip
        marks = [self.image] * len(images) + [VIDEO] * bool(frames)
        return Input(
            prompt="".join(mark + gap for mark in marks) + words, images=list(images),
            video=frames or None,
        )  # fmt: skip
