"""Texts of the MMEB data sets, which are prompts with an image placeholder of their own."""

IMAGE = "<|image_1|>"
"""The image placeholder in MMEB's texts, whatever the backbone."""


def prompt_of(text: str, placeholder: str | None) -> str:
    """Makes the prompt for a backbone out of ``text``, which is a whole prompt already.

    ``placeholder`` is the backbone's own, or None where the input has no image: MMEB's placeholder
    is then left out. A text without a placeholder goes behind that of its image. White space
    matters, because it changes the vector.
    """
    if placeholder is None:
        return text.replace(IMAGE, "").lstrip() if IMAGE in text else text
    if IMAGE not in text:
        return f"{placeholder} {text}" if text else placeholder
    return text.replace(IMAGE, placeholder)
