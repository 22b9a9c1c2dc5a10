"""Instruction, texts and placeholders to a prompt of the form that the model was trained on."""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

from vlm2vec_registry.prompt_template import CONTENT, GIVEN, KIND, SYSTEM, PromptTemplate
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.prepared import Medium, Request


class Rendered(NamedTuple):
    """A prompt, the place of the words in it that may be cut from their end, and how many of its
    characters are the turn of the system prompt."""

    text: str
    words: tuple[int, int]
    system: int


def render(template: PromptTemplate, request: Request, placeholders: Sequence[str]) -> Rendered:
    """Joins the parts of ``request`` to a prompt, as ``template`` says.

    ``placeholders`` are the model's own, one for each image of the request, then for each video and
    for each audio. The checkpoint's own template has become turns already (see `chat_template`).
    """
    instruction, system = request.instruction or "", template.system
    if template.instruction == "system":
        if template.full_stop:
            instruction = _sentence(instruction)
        instruction, system = "", instruction or system
    if template.order == GIVEN:
        content, words = _as_given(template, instruction, request, placeholders)
    else:
        content, words = _by_kind(template, instruction, request, placeholders)
    if template.closing:
        content += template.closing.replace(KIND, _kind(request))
    turn = template.system_turn.replace(SYSTEM, system) if system else ""
    start, end = template.user_turn.split(CONTENT)
    end += template.assistant_turn if template.generation_prompt else ""
    place = len(turn) + len(start)
    return Rendered(
        f"{turn}{start}{content}{end}{template.suffix}",
        (place + words[0], place + words[1]),
        len(turn),
    )


def _kind(request: Request) -> str:
    """The kind of the last media of ``request``; ``text`` where there are none."""
    media = [part for part in request.in_order if isinstance(part, Medium)]
    return media[-1].value if media else "text"


def _sentence(instruction: str) -> str:
    """The instruction without the blanks around it, and with a full stop if it has no mark."""
    words = instruction.strip()
    return words + "." if words and not unicodedata.category(words[-1]).startswith("P") else words


def _by_kind(
    template: PromptTemplate, instruction: str, request: Request, placeholders: Sequence[str]
) -> tuple[str, tuple[int, int]]:
    """The content with its parts by their kind, and where the texts stand in it."""
    texts = request.texts
    if template.empty is not None and not (placeholders or texts or instruction):
        return template.empty, (0, 0)
    media = ""
    if placeholders:
        marks = _marks(template, request, placeholders)
        kinds = [Medium(kind) for kind in template.order if kind != "text"]
        kinds += [Medium.AUDIO] * (Medium.AUDIO not in kinds)
        media = template.between_media.join(mark for kind in kinds for mark in marks[kind])
    text = _clean(template, template.text_separator.join(texts))
    instruction = _clean(template, instruction)
    if template.collapse and not (instruction or text):
        text = " "
    head = instruction + template.separator if instruction and text else instruction
    if media and head + text and template.order[0] != "text":
        head = media + template.media_separator + head
        media = ""
    elif head + text:
        media = template.media_separator * bool(media) + media
    return head + text + media, (len(head), len(head + text))


def _as_given(
    template: PromptTemplate, instruction: str, request: Request, placeholders: Sequence[str]
) -> tuple[str, tuple[int, int]]:
    """The content with its parts in the caller's order, and where the longest text stands in it.
    The instruction is before the first text, or else at the end."""
    parts = request.in_order
    if template.empty is not None and not (parts or instruction):
        return template.empty, (0, 0)
    marks = {kind: iter(found) for kind, found in _marks(template, request, placeholders).items()}
    instruction = _clean(template, instruction)
    content, words = "", (0, 0)
    for part in parts:
        if isinstance(part, Medium):
            content += next(marks[part])
            continue
        if instruction:
            content += instruction + template.separator
            instruction = ""
        text = _clean(template, part) or " " * template.collapse
        if len(text) >= words[1] - words[0]:
            words = (len(content), len(content) + len(text))
        content += text
    return content + instruction, words


def _marks(
    template: PromptTemplate, request: Request, placeholders: Sequence[str]
) -> dict[Medium, list[str]]:
    """The placeholders in their brackets, by kind."""
    images, films = len(request.images), len(request.images) + len(request.videos)
    return {
        kind: [f"{start}{one}{end}" for one in found]
        for kind, (start, end), found in (
            (Medium.IMAGE, template.brackets, placeholders[:images]),
            (Medium.VIDEO, template.brackets, placeholders[images:films]),
            (Medium.AUDIO, template.audio_brackets, placeholders[films:]),
        )
    }


def _clean(template: PromptTemplate, text: str) -> str:
    for blanked in template.blanked:
        text = text.replace(blanked, " ")
    return " ".join(text.split()) if template.collapse else text


def check_text(
    request: Request, reserved: Sequence[str], max_bytes: int, template: PromptTemplate
) -> None:
    """Refuses an input with nothing in it, unless ``template`` has words for that, with too much
    text, with two kinds of prompt, or with a placeholder where text belongs.

    ``reserved`` lists the placeholders, ``max_bytes`` is the limit of each of the texts in UTF-8,
    all parts of text being one. A raw ``prompt`` may hold placeholders; in words one would shift
    every image after it, so the error says to use ``prompt``. Raises `InvalidInputError` that names
    the field at fault.
    """
    words = template.text_separator.join(request.texts)
    if request.prompt is not None and (request.instruction or words):
        raise InvalidInputError("prompt", "give either prompt, or instruction and text")
    fields = {"prompt": request.prompt, "instruction": request.instruction, "text": words}
    for name, value in fields.items():
        if not value:
            continue
        try:
            size = len(value.encode())
        except UnicodeEncodeError as error:  # half a surrogate pair, which JSON can hold
            raise InvalidInputError(name, f"no valid Unicode: {error}") from error
        if size > max_bytes:
            raise InvalidInputError(name, f"{size} bytes are more than max_text_bytes, {max_bytes}")
        for placeholder in reserved if name != "prompt" else ():
            if placeholder in value and placeholder not in template.blanked:
                raise InvalidInputError(
                    name, f"holds the placeholder {placeholder}; write a raw prompt to place it"
                )
    others = any(fields.values()) or request.has_media
    if request.token_ids and others:
        raise InvalidInputError("token_ids", "give nothing beside them: they are the whole prompt")
    nothing = not request.token_ids and not others
    if nothing and (template.empty is None or request.prompt is not None):
        raise InvalidInputError("text", "the input is empty: give a prompt, text, or media")
