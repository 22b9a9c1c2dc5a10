"""Texts that are cut on request: where, what stays, and what is said about it."""

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ARCHITECTURES
from tests.unit.pictures import noise
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Prepared, Preprocessor, Request
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.settings import Limits

DEFAULT = EmbeddingConfig()
WITH_SUFFIX = EmbeddingConfig(prompt=PromptTemplate(separator=": ", suffix="\nAnswer:"))
WORDS = "one two three four five six seven eight nine ten " * 3
TEXTS = [
    WORDS,
    "\u5317\u4eac\u5e02\u7684\u5929\u6c14\u5f88\u597d" * 3,
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 e\u0301\u0302 " * 3,
    "supercalifragilisticexpialidocious" * 3,
    "  spaces   and\n\n\nlines \t\t tabs  " * 3,
]
IMAGE = {"qwen2_vl": "<|image_pad|>", "phi3_v": "<|image_1|>"}


@pytest.fixture(scope="module")
def preprocessors(checkpoints: Path) -> dict[str, Preprocessor]:
    return {name: load_preprocessor(checkpoints / name) for name in ARCHITECTURES}


def ids(prepared: Prepared) -> list[int]:
    return list(map(int, prepared.token_ids))


def cases(architecture: str) -> list[dict[str, Any]]:
    """Requests without their text, by what else is in them."""
    image = (noise(84, 56),)
    video = (noise(84, 56), noise(84, 56, 1))
    found: list[dict[str, Any]] = [{}, {"instruction": "Find it"}, {"images": image}]
    found.append({"instruction": "Find it", "images": (*image, noise(56, 84))})
    if architecture == "qwen2_vl":
        found.append({"instruction": "Find it", "videos": (Frames(video),)})
    return found


@pytest.mark.parametrize("text", TEXTS, ids=["words", "chinese", "emoji", "one word", "blanks"])
@pytest.mark.parametrize("embedding", [DEFAULT, WITH_SUFFIX], ids=["default", "suffix"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_truncated_input_is_that_of_a_shorter_text(
    preprocessors: dict[str, Preprocessor], architecture: str, embedding: EmbeddingConfig, text: str
) -> None:
    preprocessor = preprocessors[architecture]
    for others in cases(architecture):
        whole = preprocessor.prepare(Request(text=text, **others), embedding)
        assert not whole.truncated
        for most in (len(whole) - 1, len(whole) - 9):
            request = Request(text=text, truncate=most, **others)
            cut = preprocessor.prepare(request, embedding)
            assert cut.truncated
            assert len(cut) <= most
            assert [media.digest for media in cut.media] == [m.digest for m in whole.media]
            shorter = (
                preprocessor.prepare(Request(text=text[:end].rstrip(), **others), embedding)
                for end in range(len(text) - 1, 0, -1)
            )
            assert any(ids(one) == ids(cut) for one in shorter), (others, most)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words_are_cut_to_exactly_the_limit(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    preprocessor = preprocessors[architecture]
    whole = ids(preprocessor.prepare(Request(text=WORDS.strip()), DEFAULT))
    for most in (3, 10, len(whole) - 1):
        cut = preprocessor.prepare(Request(text=WORDS.strip(), truncate=most), DEFAULT)
        assert ids(cut) == whole[: len(cut)]
        assert most - 2 <= len(cut) <= most


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_what_fits_is_left_as_it_is(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    preprocessor = preprocessors[architecture]
    for others in cases(architecture):
        whole = preprocessor.prepare(Request(text=WORDS, **others), WITH_SUFFIX)
        for most in (len(whole), len(whole) + 1, 0):
            same = preprocessor.prepare(Request(text=WORDS, truncate=most, **others), WITH_SUFFIX)
            assert ids(same) == ids(whole)
            assert not same.truncated


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_zero_cuts_to_the_server_s_own_limit(checkpoints: Path, architecture: str) -> None:
    preprocessor = load_preprocessor(checkpoints / architecture, Limits(max_tokens=20))
    with pytest.raises(InvalidInputError, match=r"max_tokens, 20; .* truncation"):
        preprocessor.prepare(Request(text=WORDS), DEFAULT)
    cut = preprocessor.prepare(Request(text=WORDS, truncate=0), DEFAULT)
    assert cut.truncated
    assert 18 <= len(cut) <= 20


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_limit_without_room_for_text_is_an_error(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    preprocessor = preprocessors[architecture]
    for others in cases(architecture)[1:]:
        fixed = len(preprocessor.prepare(Request(**others), WITH_SUFFIX))
        for request in (
            Request(text=WORDS, truncate=fixed - 1, **others),
            Request(text=WORDS, truncate=1, **others),
            Request(truncate=fixed - 1, **others),
        ):
            with pytest.raises(InvalidInputError, match=r"input: .* to [0-9]+ tokens: media"):
                preprocessor.prepare(request, WITH_SUFFIX)
        assert not preprocessor.prepare(Request(truncate=fixed, **others), WITH_SUFFIX).truncated


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_a_character_is_no_text(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    preprocessor = preprocessors[architecture]
    face = len(preprocessor.prepare(Request(text="\U0001f600"), DEFAULT))
    assert face > 2, "the tokenizer has a token for it"
    with pytest.raises(InvalidInputError, match="no room"):
        preprocessor.prepare(Request(text="\U0001f600" * 9, truncate=face - 1), DEFAULT)
    assert len(preprocessor.prepare(Request(text="\U0001f600" * 9, truncate=face), DEFAULT)) == face


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_longest_text_of_a_raw_prompt_loses_its_end(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    preprocessor, image = preprocessors[architecture], (noise(84, 56),)
    for form in (f"a red {IMAGE[architecture]}\n%s", f"%s{IMAGE[architecture]} a red"):
        whole = preprocessor.prepare(Request(form % WORDS, images=image), DEFAULT)
        request = Request(form % WORDS, images=image, truncate=len(whole) - 9)
        cut = preprocessor.prepare(request, DEFAULT)
        assert cut.truncated
        shorter = (
            preprocessor.prepare(Request(form % WORDS[:end].rstrip(), images=image), DEFAULT)
            for end in range(len(WORDS) - 1, 0, -1)
        )
        assert any(ids(one) == ids(cut) for one in shorter)


def test_control_tokens_behind_the_text_stay(preprocessors: dict[str, Preprocessor]) -> None:
    preprocessor = preprocessors["qwen2_vl"]
    prompt = f"<|im_start|>{WORDS}<|im_end|>\n<|im_start|>assistant\n"
    whole = ids(preprocessor.prepare(Request(prompt), DEFAULT))
    end = ids(preprocessor.prepare(Request("<|im_end|>\n<|im_start|>assistant\n"), DEFAULT))
    cut = ids(preprocessor.prepare(Request(prompt, truncate=len(whole) // 2), DEFAULT))
    assert len(cut) <= len(whole) // 2
    assert cut[-len(end) :] == whole[-len(end) :] == end
    assert cut[: len(cut) - len(end)] == whole[: len(cut) - len(end)]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_token_ids_lose_their_end(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    given = tuple(range(10, 60))
    for truncate, kept in ((7, 7), (50, 50), (51, 50), (0, 50)):
        prepared = preprocessors[architecture].prepare(
            Request(token_ids=given, truncate=truncate), DEFAULT
        )
        assert ids(prepared) == list(given[:kept])
        assert prepared.truncated == (kept < 50)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_limit_of_the_adapter_comes_first_and_is_reported(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    preprocessor = preprocessors[architecture]
    adapter = EmbeddingConfig(max_text_tokens=20)
    text = WORDS * 30
    whole = ids(preprocessor.prepare(Request(text=text), DEFAULT))
    for request, most in (
        (Request(text=text), 20),
        (Request(text=text, truncate=30), 20),
        (Request(text=text, truncate=0), 20),
        (Request(text=text, truncate=12), 12),
    ):
        prepared = preprocessor.prepare(request, adapter)
        assert prepared.truncated
        assert ids(prepared) == whole[: len(prepared)]
        assert most - 2 <= len(prepared) <= most
    assert not preprocessor.prepare(Request(text="one two"), adapter).truncated
