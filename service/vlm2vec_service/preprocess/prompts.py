"""Instruction, text and placeholders to a prompt of the form that the model was trained on."""

from collections.abc import Sequence

from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.prepared import Request


def render(template: PromptTemplate, request: Request, placeholders: Sequence[str]) -> str:
    """Joins the parts of ``request`` to a prompt: placeholders first, then instruction and text.
    The text is right before the template's suffix.

    ``placeholders`` are the model's own, one for each image and video of the request; ``template``
    says what stands between the parts.
    """
    words = [part for part in (request.instruction, request.text) if part]
    parts = [" ".join(placeholders)] if placeholders else []
    if words:
        parts.append(template.separator.join(words))
    return template.media_separator.join(parts) + template.suffix


def check_text(request: Request, reserved: Sequence[str], max_bytes: int) -> None:
    """Refuses an input with nothing in it, with too much text, with two kinds of prompt, or with
    a placeholder where text belongs.

    ``reserved`` lists the placeholders, ``max_bytes`` is the limit of each of the texts in UTF-8.
    A raw ``prompt`` may hold placeholders; in ``instruction`` and ``text`` one would shift every
    image after it, so the error says to use ``prompt``. Raises `InvalidInputError` that names the
    field at fault.
    """
    if request.prompt is not None and (request.instruction or request.text):
        raise InvalidInputError("prompt", "give either prompt, or instruction and text")
    fields = {
        "prompt": request.prompt,
        "instruction": request.instruction,
        "text": request.text,
    }
    for name, value in fields.items():
        try:
            size = len((value or "").encode())
        except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold
            raise InvalidInputError(name, f"no valid Unicode: {error}") from error
        if size > max_bytes:
            raise InvalidInputError(name, f"{size} bytes are more than max_text_bytes, {max_bytes}")
        if name != "prompt":
            for placeholder in reserved:
                if placeholder in (value or ""):
                    raise InvalidInputError(
                        name, f"holds the placeholder {placeholder}; write a raw prompt to place it"
                    )
    others = any(fields.values()) or request.images or request.video
    if request.token_ids and others:
        raise InvalidInputError("token_ids", "give nothing beside them: they are the whole prompt")
    if not request.token_ids and not others:
        raise InvalidInputError("text", "the input is empty: give a prompt, text, image or video")
