"""Control tokens in callers' words are plain text; ordinary text keeps its token ids."""

import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers

from tests.conftest import ARCHITECTURES
from tests.unit.pictures import noise
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.preprocess.tokens import PromptTokenizer

DEFAULT = EmbeddingConfig()
DATA = Path(__file__).parents[1] / "parity" / "data" / "tokenizers"
TOKENIZERS = {
    name: Tokenizer.from_file(str(DATA / name / "tokenizer.json")) for name in ARCHITECTURES
}
CONTROL = [
    (name, token.content, id)
    for name, tokenizer in TOKENIZERS.items()
    for id, token in tokenizer.get_added_tokens_decoder().items()
]
SURROUNDINGS = [
    "{}",
    "a {} b",
    "a{}b",
    " {}\n",
    "{}{}",
    "\u00e9{} \u5317\u4eac {}\U0001f600",
    "{} {} {}",
    "<|{}|>",
    "  \t{}  c",
]
PLACEHOLDERS = ("<|image_pad|>", "<|video_pad|>")


def without_control(architecture: str) -> Tokenizer:
    """The tokenizer of ``architecture`` if it knew no control token."""
    theirs = TOKENIZERS[architecture]
    plain = Tokenizer(theirs.model)
    plain.normalizer, plain.pre_tokenizer = theirs.normalizer, theirs.pre_tokenizer
    plain.post_processor = theirs.post_processor
    return plain


@pytest.fixture(scope="module")
def preprocessors(checkpoints: Path) -> dict[str, Preprocessor]:
    return {name: load_preprocessor(checkpoints / name) for name in ARCHITECTURES}


@pytest.mark.parametrize("field", ["text", "instruction"])
@pytest.mark.parametrize(("architecture", "token", "id"), CONTROL)
def test_control_token_in_words_is_plain_text(
    preprocessors: dict[str, Preprocessor], field: str, architecture: str, token: str, id: int
) -> None:
    if token in PLACEHOLDERS:
        pytest.skip("refused: a raw prompt places media")
    plain = without_control(architecture)
    overlapping = f"{token[:4]}{token}{token[4:]}"
    for words in [*(around.replace("{}", token) for around in SURROUNDINGS), overlapping]:
        values: dict[str, Any] = {field: words}
        ids = preprocessors[architecture].prepare(Request(**values), DEFAULT).token_ids.tolist()
        assert ids == plain.encode(words).ids, words
        assert ids.count(id) == (token == "<s>"), words  # Phi's BOS is nobody's words
        raw = preprocessors[architecture].prepare(Request(prompt=words), DEFAULT).token_ids
        assert raw.tolist() == TOKENIZERS[architecture].encode(words).ids
        assert id in raw


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_control_token_made_of_two_words_is_plain_text(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    embedding = EmbeddingConfig(prompt=PromptTemplate(separator="", suffix="|>"))
    for instruction, text in (("<|endof", "text|>"), ("a", "<|endoftext")):
        request = Request(instruction=instruction, text=text)
        ids = preprocessors[architecture].prepare(request, embedding).token_ids.tolist()
        assert ids == without_control(architecture).encode(f"{instruction}{text}|>").ids
        assert 2000 not in ids


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_template_may_hold_control_tokens(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    embedding = EmbeddingConfig(
        prompt=PromptTemplate(
            media_separator="<|endoftext|>", separator="<|endoftext|> ", suffix="\n<|endoftext|>"
        )
    )
    preprocessor = preprocessors[architecture]
    image = "<|image_pad|>" if architecture == "qwen2_vl" else "<|image_1|>"
    pictures = (noise(56, 56),)
    rendered = preprocessor.prepare(Request(instruction="a", text="b ", images=pictures), embedding)
    prompt = f"{image}<|endoftext|>a<|endoftext|> b \n<|endoftext|>"
    raw = preprocessor.prepare(Request(prompt=prompt, images=pictures), DEFAULT)
    np.testing.assert_array_equal(rendered.token_ids, raw.token_ids)
    words = Request(instruction="a", text="<|endoftext|>", images=pictures)
    assert preprocessor.prepare(words, embedding).token_ids.tolist().count(2000) == 3


ALPHABETS = (
    "abcdefghijklmnopqrstuvwxyzABCXYZ",
    "0123456789.,:;-+=",
    "\xe9\xfc\xdf\xf1\u0153",
    "\u0430\u0431\u0432\u0433\u0434\u042f",
    "\u4e2d\u6587\u5b57\u5317\u4eac",
    "\u0627\u0644\u0639\u0631\u0628",
    "\u0939\u093f\u0928\u094d\u0926\u0940",
    "\ud55c\uad6d\uc5b4",
    "\U0001f600\U0001f468\u200d\U0001f469",
    "<>|/[]{}()\"'`~#$%&*",
    "e\u0301a\u0308",
    "\u2581\xa0\u200b\u3000",
    " ",
    "  ",
    "\n",
    "\t",
)


def ordinary_texts(count: int) -> list[str]:
    """Texts of many scripts, with marks, blanks and what only looks like control tokens."""
    dice = random.Random(0)
    almost = [
        "<|im_end>",
        "<|im_end |>",
        "< s>",
        "</ s>",
        "<|",
        "|>",
        "<|endoftext",
        "<S>",
        "<0x0A>",
    ]
    texts = []
    for _ in range(count):
        pieces = []
        for _ in range(dice.randint(1, 12)):
            alphabet = dice.choice(ALPHABETS)
            pieces.append("".join(dice.choices(alphabet, k=dice.randint(1, 9))))
            pieces.append(dice.choice(["", " ", " ", dice.choice(almost)]))
        texts.append("".join(pieces))
    return texts


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ordinary_text_keeps_its_token_ids(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    theirs = TOKENIZERS[architecture]
    control = [token for name, token, _ in CONTROL if name == architecture]
    texts = [t for t in ordinary_texts(2_100) if not any(token in t for token in control)]
    assert len(texts) > 2_000
    for first, second in zip(texts, texts[1:] + texts[:1], strict=True):
        request = Request(instruction=first, text=second)
        ids = preprocessors[architecture].prepare(request, DEFAULT).token_ids.tolist()
        assert ids == theirs.encode(f"{first} {second}").ids, (first, second)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_control_tokens_of_a_template_leave_the_ids_between_them(architecture: str) -> None:
    theirs = TOKENIZERS[architecture]
    tokenizer = PromptTokenizer(theirs)
    control = [token for name, token, _ in CONTROL if name == architecture]
    texts = [t for t in ordinary_texts(900) if not any(token in t for token in control)]
    dice = random.Random(1)
    for start in range(0, len(texts), 3):
        words = [word for text in texts[start : start + 3] for word in (text, dice.choice(control))]
        dice.shuffle(words)  # so that some control tokens are neighbours, and some texts
        prompt = "".join(words)
        for _ in range(2):
            assert tokenizer.encode(tokenizer.spell(prompt)) == theirs.encode(prompt).ids, prompt


def test_other_threads_go_on_while_a_long_text_is_encoded() -> None:
    tokenizer = PromptTokenizer(TOKENIZERS["qwen2_vl"])
    started, noticed, most = threading.Event(), threading.Event(), 200
    rounds = 0

    def encode() -> None:
        nonlocal rounds
        started.set()
        while not noticed.is_set() and rounds < most:
            tokenizer.encode("a cat and a dog " * 2_000)
            rounds += 1

    interval = sys.getswitchinterval()
    thread = threading.Thread(target=encode)
    try:
        sys.setswitchinterval(1_000)  # from here on a thread runs until it lets others run
        thread.start()
        started.wait()
        noticed.set()
        thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert rounds < most


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "normalized"])
@pytest.mark.parametrize("prefix", ["always", "first", "never"])
def test_a_control_token_that_changes_its_surroundings_does(flag: str, prefix: str) -> None:
    vocabulary = {"\u2581": 0, "a": 1, "b": 2, "[": 3, "X": 4, "]": 5, "\u2581a": 6, "?": 7}
    theirs = Tokenizer(models.BPE(vocabulary, merges=[("\u2581", "a")], unk_token="?"))
    theirs.normalizer = normalizers.Lowercase()
    theirs.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=prefix)
    flags = {"normalized": False} | {flag: True}
    theirs.add_tokens([AddedToken("[x]", **flags), AddedToken("[Y]", normalized=False)])
    tokenizer = PromptTokenizer(theirs)
    for prompt in ("a [x] a", "a[x]a", "[x]a", " [x] [Y] a", "a[Y][x]a", "a[Y]a", "[Y] a", "a"):
        assert tokenizer.encode(tokenizer.spell(prompt)) == theirs.encode(prompt).ids, prompt


def test_flags_of_control_tokens_and_gaps_in_the_vocabulary_are_kept() -> None:
    vocabulary = {"a": 0, "b": 1, " ": 2, "[": 3, "X": 4, "]": 5, "?": 9}
    theirs = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="?"))
    theirs.add_tokens([AddedToken("[X]", rstrip=True, lstrip=True, normalized=False)])
    tokenizer = PromptTokenizer(theirs)
    (id,) = theirs.get_added_tokens_decoder()
    spelt = "a " + tokenizer.spell("[X]") + "  b[X]?"
    assert tokenizer.encode(spelt) == [0, id, 1, 3, 4, 5, 9]
    assert tokenizer.encode_raw("a [X]  b?") == [0, id, 1, 9]
