"""Qwen2.5-Omni's preprocessing: what it makes of audio, and what it refuses."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.parity import backbone_cases
from tests.parity.make_backbones import PATCHES_14
from tests.parity.omni import OMNI, THINKER
from tests.unit.pictures import noise
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.backbones.table import check_embedding
from vlm2vec_service.errors import AdapterError, InvalidInputError
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.preprocess.audio import raw_audio
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.preprocess.prepared import Medium
from vlm2vec_service.settings import Limits

AUDIO_ID = 2008
BRACKETED = "<|audio_bos|><|AUDIO|><|audio_eos|>"
CASES = [case for case in backbone_cases.CASES["qwen2_5_omni"] if "audios" in case]
V3, CHAT = (preset.read(name).embedding for name in ("vlm2vec-v3", "omni-chat"))


@dataclass
class Noise:
    """So many samples of noise, and how many seconds were asked for."""

    count: int
    asked: float = 0.0

    def samples(self, seconds: float) -> npt.NDArray[np.float32]:
        self.asked = seconds
        count = min(self.count, int(seconds * 16_000))
        return np.random.default_rng(self.count).standard_normal(count, np.float32)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("omni") / "base"
    return backbone_cases.write_settings(folder, "qwen2_5_omni", OMNI, PATCHES_14)


@pytest.fixture(scope="module")
def preprocessor(base: Path) -> Preprocessor:
    return load_preprocessor(base)


@pytest.mark.parametrize("case", CASES, ids=[case["id"] for case in CASES])
def test_log_mel_is_that_of_the_authors_code(
    preprocessor: Preprocessor, case: dict[str, Any]
) -> None:
    prepared = backbone_cases.prepare(preprocessor, case)
    values = [media.values for media in prepared.media if media.kind == "audio"]
    goldens = backbone_cases.goldens()
    frames = goldens.get(f"qwen2_5_omni/frames/{case['id']}", np.array([]))
    assert [len(one) for one in values] == frames.tolist()
    if values:
        every = np.concatenate(values)
        said = [
            every.shape[1], len(every), every.mean(dtype=float), every.std(dtype=float),
            every.min(), every.max(),
        ]  # fmt: skip
        features = goldens[f"qwen2_5_omni/features/{case['id']}"]
        np.testing.assert_allclose(said, features.reshape(-1), rtol=0, atol=1e-4)


def test_thinker_alone_is_prepared_like_the_whole_model(
    preprocessor: Preprocessor, tmp_path: Path
) -> None:
    # As newer versions of transformers save it.
    renamed = {key.replace("token_index", "token_id"): value for key, value in THINKER.items()}
    request = Request(
        parts=(Medium.VIDEO, Medium.AUDIO, "a", Medium.IMAGE), audios=(Noise(9000),),
        images=(noise(60, 90),), videos=(Frames((noise(56, 56),) * 4, 0.7),),
    )  # fmt: skip
    whole = preprocessor.prepare(request, CHAT)
    for index, config in enumerate((THINKER, renamed)):
        base = backbone_cases.write_settings(
            tmp_path / str(index), "qwen2_5_omni", config, PATCHES_14
        )
        alone = load_preprocessor(base).prepare(request, CHAT)
        np.testing.assert_array_equal(alone.token_ids, whole.token_ids)
        np.testing.assert_array_equal(alone.positions, whole.positions)
        assert [one.digest for one in alone.media] == [one.digest for one in whole.media]


@pytest.mark.parametrize(
    ("fps", "times"),
    [(None, [0, 25, 50, 75]), (1, [0, 50, 100, 150]), (24, [0, 2, 4, 6]), (50, [0, 1, 2, 3])],
)
def test_positions_of_a_film_are_of_its_seconds(
    preprocessor: Preprocessor, fps: float | None, times: list[int]
) -> None:
    film = Frames((noise(56, 56),) * 8, fps)
    request = Request(parts=(Medium.VIDEO,), videos=(film,))
    for embedding, expected in ((CHAT, times), (V3, [0, 25, 50, 75])):
        prepared = preprocessor.prepare(request, embedding)
        start = prepared.media[0].start
        rows = prepared.positions[0, start : start + 16].reshape(4, 4)
        assert (rows - rows[0, 0]).tolist() == [[time] * 4 for time in expected]


@pytest.mark.parametrize(
    ("samples", "tokens"), [(400, 1), (640, 1), (641, 1), (16_000, 25), (32_160, 50)]
)
def test_tokens_of_an_audio(preprocessor: Preprocessor, samples: int, tokens: int) -> None:
    prepared = preprocessor.prepare(Request(BRACKETED, audios=(Noise(samples),)), CHAT)
    assert prepared.token_ids.tolist().count(AUDIO_ID) == prepared.media[0].tokens == tokens
    np.testing.assert_array_equal(prepared.positions, [range(len(prepared))] * 3)


@pytest.mark.parametrize("prompt", [f"A{BRACKETED}B{BRACKETED}C{BRACKETED}", f"AB{BRACKETED}C"])
def test_too_short_audios_are_left_out_with_their_brackets_where_the_form_says_so(
    preprocessor: Preprocessor, prompt: str
) -> None:
    audios = (Noise(399), Noise(4000), Noise(0))
    left = preprocessor.prepare(Request(f"AB{BRACKETED}C", audios=(Noise(4000),)), V3)
    raw = preprocessor.prepare(Request(prompt, audios=audios), V3)
    np.testing.assert_array_equal(raw.token_ids, left.token_ids)
    assert [one.digest for one in raw.media] == [one.digest for one in left.media]
    parts = (Medium.AUDIO, "A", Medium.AUDIO, "B", Medium.AUDIO)
    given = replace(V3, prompt=replace(V3.prompt, order=("given",)))
    said = preprocessor.prepare(Request(parts=parts, audios=audios), given)
    kept = Request(parts=("A", Medium.AUDIO, "B"), audios=audios[1:2])
    np.testing.assert_array_equal(said.token_ids, preprocessor.prepare(kept, given).token_ids)
    with pytest.raises(InvalidInputError, match=r"audio\[0\]: 399 samples at 16 kHz are too short"):
        preprocessor.prepare(Request(parts=parts, audios=audios), CHAT)
    short = raw_audio(np.zeros((199, 2), np.float32), 8_000, Limits(), "parts[0].audio")
    with pytest.raises(InvalidInputError, match=r"parts\[0\]\.audio: 398 samples"):
        preprocessor.prepare(Request(text="a", audios=(short,)), CHAT)


def test_only_the_head_that_the_form_takes_is_decoded(base: Path) -> None:
    preprocessor = load_preprocessor(base, Limits(max_audio_seconds=2))
    for seconds, asked in ((0.5, 0.5), (2, 2), (None, 3)):
        audio = Noise(32_000)
        embedding = replace(CHAT, audio_max_seconds=seconds)
        prepared = preprocessor.prepare(Request(BRACKETED, audios=(audio,)), embedding)
        assert audio.asked == asked
        assert len(prepared.media[0].values) == min(seconds or 2, 2) * 100
    with pytest.raises(InvalidInputError, match="takes 300 seconds of it, more than max_audio_sec"):
        preprocessor.prepare(Request(BRACKETED, audios=(Noise(32_001),)), CHAT)


@pytest.mark.parametrize(
    ("request_", "problem"),
    [
        (Request("a", audios=(Noise(800),)), r"audio: 1 given, but the prompt has 0 <\|AUDIO\|>"),
        (Request(BRACKETED), r"audio: 0 given, but the prompt has 1 <\|AUDIO\|>"),
        (Request(text="a <|AUDIO|>"), r"text: holds the placeholder <\|AUDIO\|>"),
        (Request(BRACKETED * 5, audios=(Noise(800),) * 5), "5 are more than max_audios, 4"),
        (
            Request(BRACKETED * 3, audios=(Noise(16_000 * 200),) * 3),
            "10000 tokens are more than max_tokens, 8192",
        ),
    ],
)
def test_what_is_refused(preprocessor: Preprocessor, request_: Request, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        preprocessor.prepare(request_, V3)


def test_family_that_takes_no_audio_refuses_it(checkpoints: Path) -> None:
    request = Request(text="a", audios=(Noise(800),))
    with pytest.raises(InvalidInputError, match="audio: the model takes no audio"):
        load_preprocessor(checkpoints / "qwen2_vl").prepare(request, EmbeddingConfig())


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("audio_short", {"audio_short": "drop"}),
        ("audio_max_seconds", {"audio_max_seconds": 10.24}),
        ("prompt.audio_brackets", {"prompt": {"audio_brackets": ["<", ">"]}}),
    ],
)
def test_family_that_takes_no_audio_refuses_settings_of_it(key: str, values: Any) -> None:
    embedding = EmbeddingConfig.from_dict(values)
    check_embedding("qwen2_5_omni", embedding, "here")
    for family in ("qwen3_vl", "phi3_v"):
        with pytest.raises(AdapterError, match=f"here: {key} can be nothing but the default"):
            check_embedding(family, embedding, "here")
