"""Instruction, text and placeholders to one prompt."""

from typing import Any

import pytest
from PIL import Image

from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.preprocess.prepared import Request
from vlm2vec_service.preprocess.prompts import check_text, render

DEFAULT = PromptTemplate()
CUSTOM = PromptTemplate(media_separator="\n", separator=": ", suffix="\n<end>")
PICTURE = Image.new("RGB", (8, 8))


def with_one(field: str, value: str) -> Request:
    values: dict[str, Any] = {field: value}
    return Request(**values)


@pytest.mark.parametrize(
    ("media", "instruction", "text", "default", "custom"),
    [
        (1, "Find", "cat", "<m> Find cat", "<m>\nFind: cat\n<end>"),
        (1, "Find", None, "<m> Find", "<m>\nFind\n<end>"),
        (1, None, "cat", "<m> cat", "<m>\ncat\n<end>"),
        (1, None, None, "<m>", "<m>\n<end>"),
        (0, "Find", "cat", "Find cat", "Find: cat\n<end>"),
        (0, "Find", None, "Find", "Find\n<end>"),
        (0, None, "cat", "cat", "cat\n<end>"),
        (2, "Find", "cat", "<m> <m> Find cat", "<m> <m>\nFind: cat\n<end>"),
        (1, "", "", "<m>", "<m>\n<end>"),
        (0, "Find", "", "Find", "Find\n<end>"),
        # What is there is left as it is, blanks included.
        (0, " Find\n", " cat ", " Find\n  cat ", " Find\n:  cat \n<end>"),
    ],
)
def test_render_joins_the_parts_that_are_there(
    media: int, instruction: str | None, text: str | None, default: str, custom: str
) -> None:
    request = Request(instruction=instruction, text=text, images=(PICTURE,) * media)
    assert render(DEFAULT, request, ["<m>"] * media).text == default
    assert render(CUSTOM, request, ["<m>"] * media).text == custom


@pytest.mark.parametrize("field", ["instruction", "text"])
@pytest.mark.parametrize("placeholder", ["<|image_pad|>", "<|video_pad|>"])
def test_placeholder_in_words_is_refused(field: str, placeholder: str) -> None:
    words = f"look at {placeholder}"
    with pytest.raises(InvalidInputError) as caught:
        check_text(with_one(field, words), ("<|image_pad|>", "<|video_pad|>"), 100, DEFAULT)
    assert caught.value.field == field
    assert placeholder in str(caught.value)


def test_placeholder_in_prompt_is_allowed() -> None:
    check_text(Request(prompt="<|image_pad|> hello"), ("<|image_pad|>",), 100, DEFAULT)


@pytest.mark.parametrize(
    "request_",
    [
        Request(),
        Request(prompt=""),
        Request(instruction=""),
        Request(text=""),
        Request(instruction="", text=""),
        Request(prompt="", text=""),
    ],
)
def test_empty_input_is_refused(request_: Request) -> None:
    with pytest.raises(InvalidInputError, match="empty") as caught:
        check_text(request_, (), 100, DEFAULT)
    assert caught.value.field == "text"


@pytest.mark.parametrize(
    "request_",
    [
        Request(prompt="a"),
        Request(instruction="a"),
        Request(text="a"),
        Request(images=(PICTURE,)),
        Request(videos=(Frames((PICTURE,)),)),
    ],
)
def test_any_one_part_is_enough(request_: Request) -> None:
    check_text(request_, ("<m>",), 100, DEFAULT)


@pytest.mark.parametrize(
    "request_", [Request(prompt="a", instruction="b"), Request(prompt="a", text="b")]
)
def test_prompt_beside_words_is_refused(request_: Request) -> None:
    with pytest.raises(InvalidInputError, match="either prompt") as caught:
        check_text(request_, (), 100, DEFAULT)
    assert caught.value.field == "prompt"


@pytest.mark.parametrize("field", ["prompt", "instruction", "text"])
def test_too_many_bytes_are_refused(field: str) -> None:
    # Three bytes each: it is bytes that count, not characters.
    check_text(with_one(field, "北" * 33), (), 99, DEFAULT)
    with pytest.raises(InvalidInputError, match=r"102 bytes .*max_text_bytes, 99\b") as caught:
        check_text(with_one(field, "北" * 34), (), 99, DEFAULT)
    assert caught.value.field == field


@pytest.mark.parametrize("field", ["prompt", "instruction", "text"])
def test_half_a_surrogate_pair_is_refused(field: str) -> None:
    # JSON can write it, UTF-8 and the tokenizer cannot.
    with pytest.raises(InvalidInputError, match="Unicode") as caught:
        check_text(with_one(field, "a \ud83d b"), (), 100, DEFAULT)
    assert caught.value.field == field
