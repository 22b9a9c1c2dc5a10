"""Where ``embedding.json`` cuts inputs: what it counts, and what stays."""

from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tests.parity.backbone_cases import write_settings
from tests.parity.make_backbones import DATA, PATCHES_14, PATCHES_16, QWEN2_5_VL, QWEN3_VL
from tests.unit.pictures import noise
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Prepared, Preprocessor, Request
from vlm2vec_service.preprocess.pictures import Frames

END_OF_TEXT = 2000
QWEN3 = preset.read("qwen3-vl-embedding").embedding
UNCUT = replace(QWEN3, max_text_tokens=None, cut="text")
PLAIN = {
    "qwen3_vl": UNCUT, "qwen2_5_vl": EmbeddingConfig(),
    "phi3_v": EmbeddingConfig(image={"num_crops": 1}),
}  # fmt: skip
WORDS = "A boat passes the temple before the other one. " * 9
PICTURE = noise(128, 128)
"""16 tokens of Qwen3-VL."""


@pytest.fixture(scope="module")
def preprocessors(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Preprocessor]:
    folder = tmp_path_factory.mktemp("cuts")
    write_settings(folder / "qwen3_vl", "qwen3_vl", QWEN3_VL, PATCHES_16)
    write_settings(folder / "qwen3_vl_eot", "qwen3_vl_eot", QWEN3_VL, PATCHES_16)
    write_settings(folder / "qwen2_5_vl", "qwen2_5_vl", QWEN2_5_VL, PATCHES_14)
    (folder / "phi3_v").symlink_to(checkpoints / "phi3_v")
    return {path.name: load_preprocessor(path) for path in folder.iterdir()}


def cut_at(most: int, cut: str, embedding: EmbeddingConfig = UNCUT) -> EmbeddingConfig:
    return replace(embedding, max_text_tokens=most, cut=cut)


def ids(prepared: Prepared) -> list[int]:
    return [int(token) for token in prepared.token_ids]


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl", "phi3_v"])
@pytest.mark.parametrize("videos", [(), (Frames((noise(64, 64),) * 4),)], ids=["image", "film"])
def test_all_tokens_count_those_of_media_too(
    preprocessors: dict[str, Preprocessor], family: str, videos: tuple[Frames, ...]
) -> None:
    plain = PLAIN[family]
    request = Request(text=WORDS, images=(PICTURE,), videos=videos if family != "phi3_v" else ())
    whole = preprocessors[family].prepare(request, plain)
    last = whole.media[-1]
    end = last.start + last.tokens
    for most in (end, end + 9, len(whole) - 1):
        cut = preprocessors[family].prepare(request, cut_at(most, "all", plain))
        assert cut.truncated
        assert ids(cut) == ids(whole)[:most]
        assert cut.positions.tolist() == whole.positions[:, :most].tolist()
        assert [one.digest for one in cut.media] == [one.digest for one in whole.media]
    kept = preprocessors[family].prepare(request, cut_at(len(whole), "all", plain))
    assert (ids(kept), kept.truncated) == (ids(whole), False)
    with pytest.raises(InvalidInputError, match=f"input: its media end at token {end}, and the"):
        preprocessors[family].prepare(request, cut_at(end - 1, "all", plain))


def test_token_that_ends_every_text_stays(preprocessors: dict[str, Preprocessor]) -> None:
    tokenizer = Tokenizer.from_file(str(DATA / "tokenizers/qwen3_vl_eot/tokenizer.json"))
    tokenizer.enable_truncation(50)
    prompt = f"<|im_start|>user\n{WORDS}<|im_end|>\n"
    preprocessor = preprocessors["qwen3_vl_eot"]
    found = preprocessor.prepare(Request(prompt), cut_at(50, "all"))
    assert ids(found) == tokenizer.encode(prompt).ids
    assert (len(found), ids(found)[-1]) == (50, END_OF_TEXT)


def test_call_that_is_truncated_loses_words_and_not_the_end_of_the_template(
    preprocessors: dict[str, Preprocessor],
) -> None:
    preprocessor = preprocessors["qwen3_vl"]
    request = Request(text=WORDS, images=(PICTURE,), truncate=90)
    shortened = preprocessor.prepare(request, cut_at(900, "all"))
    assert 80 < len(shortened) <= 90
    ending = ids(preprocessor.prepare(Request(text="a"), QWEN3))[-5:]
    assert ids(shortened)[-5:] == ending


@pytest.mark.parametrize("family", ["qwen3_vl", "qwen2_5_vl"])
def test_text_is_cut_where_there_are_no_media_alone(
    preprocessors: dict[str, Preprocessor], family: str
) -> None:
    preprocessor = preprocessors[family]
    alone = Request(text=WORDS)
    whole = ids(preprocessor.prepare(alone, UNCUT))
    cut = preprocessor.prepare(alone, cut_at(40, "text_alone"))
    assert (ids(cut), cut.truncated) == (whole[:40], True)
    seen = Request(text=WORDS, images=(PICTURE,))
    kept = preprocessor.prepare(seen, cut_at(40, "text_alone"))
    assert (ids(kept), kept.truncated) == (ids(preprocessor.prepare(seen, UNCUT)), False)
    assert preprocessor.prepare(seen, cut_at(40, "text")).truncated
