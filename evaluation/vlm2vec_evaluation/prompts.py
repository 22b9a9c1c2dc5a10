"""Prompts as upstream's evaluation of MMEB writes them.

Source: TIGER-AI-Lab/VLM2Vec, `process_input_text` in src/model/processor.py and the parsers
image_cls, image_qa, image_i2t, image_t2i and image_i2i_vg in src/data/eval_dataset. They differ in
white space alone, and white space changes a vector.
"""

from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_service.backbones import FAMILIES

UPSTREAM_IMAGE = "<|image_1|>"
"""The image placeholder in MMEB's own texts, whatever the backbone."""


def placeholder(backbone: str) -> str:
    """The image placeholder of ``backbone``. Raises `EvaluationError` for an unknown one."""
    if backbone not in FAMILIES:
        raise EvaluationError(
            f"backbone {backbone!r} has no known image placeholder; known are {', '.join(FAMILIES)}"
        )
    return FAMILIES[backbone].image_placeholder


def whole(text: str, image: str | None) -> str:
    """A text that is a prompt already, with ``image``, the backbone's placeholder, in its place.

    The form of MMEB-eval, whose ``qry_text`` holds instruction and placeholder as well.
    """
    if image is None:
        return text.replace(UPSTREAM_IMAGE, "").lstrip() if UPSTREAM_IMAGE in text else text
    if UPSTREAM_IMAGE not in text:
        return f"{image} {text}" if text else image
    return text.replace(UPSTREAM_IMAGE, image)


def query(
    instruction: str, text: str, image: str | None, *, newline: bool, suffix: str = "\n"
) -> str:
    """The prompt of a query.

    ``newline`` puts a line break behind the placeholder: for questions, grounding, and retrieval
    of images by an image. Without ``image`` the query is a text that looks for an image.
    """
    instruction = instruction.replace(UPSTREAM_IMAGE, "")
    if image is None:
        return f"{instruction} {text}{suffix}"
    if newline:
        instruction = "\n" + instruction.strip()
    words = f"{instruction} {text}" if text else instruction
    return f"{image} {words}".replace(" \n", "\n") + suffix


def target(instruction: str, text: str, image: str | None, *, for_text: bool) -> str:
    """The prompt of a candidate; ``for_text``: the queries have no image.

    A candidate without an image is its text alone. One with a caption of white space alone ends
    in a line break more where the queries are texts.
    """
    if image is None:
        return text
    words = instruction.replace(UPSTREAM_IMAGE, "")
    suffix = "\n" if text.strip() or for_text else ""
    if text.strip():
        words = f"{words} {text}"
    return f"{image} {words}".replace(" \n", "\n") + suffix
