"""The presets' forms and the goldens': prompts byte for byte, from what a caller says."""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.parity import backbone_cases
from tests.parity.make_backbones import PATCHES_14, PATCHES_16, QWEN2_5_VL, QWEN3_VL
from tests.parity.omni import OMNI
from vlm2vec_registry import preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import RegistryInputError
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.backbones.qwen2_5_omni.preprocess import Qwen2_5OmniPreprocessor
from vlm2vec_service.backbones.qwen2_vl.preprocess import Qwen2VLPreprocessor
from vlm2vec_service.preprocess import Preprocessor
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.preprocess.prepared import Medium, Request
from vlm2vec_service.preprocess.prompts import render
from vlm2vec_service.preprocess.sampling import Sampling
from vlm2vec_service.settings import Limits

PRESETS = {form: name for form, name in backbone_cases.PRESETS.items() if form != "vlm2vec"}
"""Of the forms whose goldens have what a caller said."""
CASES = [
    (family, case)
    for family, cases in backbone_cases.CASES.items()
    for case in cases
    if case["form"] in PRESETS
]
PICTURE = Image.new("RGB", (8, 8))
SOUND = backbone_cases.Sound({})
QWEN_VL = (*Qwen2VLPreprocessor.reserved_text, "<|audio_pad|>")
OMNI_NAMES = Qwen2_5OmniPreprocessor.reserved_text


def request_of(case: dict[str, Any]) -> Request:
    """What a caller gives for ``case``."""
    given = case["input"]
    images = (PICTURE,) * len(case.get("images", ()))
    videos = (Frames((PICTURE,)),) * len(case.get("videos", ()))
    audios = tuple(map(backbone_cases.Sound, case.get("audios", ())))
    texts = given.get("texts", [given["text"]] if "text" in given else [])
    # Whatever order the caller had: here the one that no form has.
    counts = ((Medium.AUDIO, audios), (Medium.IMAGE, images), (Medium.VIDEO, videos))
    parts = [*texts, *(kind for kind, media in counts for _ in media)]
    if "parts" in given:
        parts = [
            part["text"] if "text" in part else Medium(next(iter(part))) for part in given["parts"]
        ]
    return Request(
        instruction=given.get("instruction", given.get("system")),
        parts=tuple(parts), images=images, videos=videos, audios=audios,
    )  # fmt: skip


def prompt_of(template: PromptTemplate, request: Request, names: Sequence[str] = QWEN_VL) -> str:
    counts = map(len, (request.images, request.videos, request.audios))
    placeholders = [name for name, count in zip(names, counts, strict=False) for _ in range(count)]
    return render(template, request, placeholders).text


@pytest.mark.parametrize(
    ("family", "case"), CASES, ids=[f"{family}-{case['id']}" for family, case in CASES]
)
def test_prompt_of_a_golden_is_made_of_what_its_caller_said(
    family: str, case: dict[str, Any]
) -> None:
    template = preset.read(PRESETS[case["form"]]).embedding.prompt
    if "generation_prompt" in case["input"]:
        template = replace(template, generation_prompt=case["input"]["generation_prompt"])
    request = request_of(case)
    if case["id"] == "audio-too-short":  # which it is found to be before the prompt is made
        request = replace(request, parts=request.texts, audios=())
    names = OMNI_NAMES if family == "qwen2_5_omni" else QWEN_VL
    assert prompt_of(template, request, names) == case["text"]


@dataclass
class Recorder:
    """Stands for ``preprocessor`` and gives back what it is to prepare."""

    preprocessor: Preprocessor

    def sampling(self, embedding: EmbeddingConfig, frames: int) -> Sampling:
        return self.preprocessor.sampling(embedding, frames)

    def prepare(self, request: Request, embedding: EmbeddingConfig) -> Any:
        return request


@pytest.fixture(scope="module")
def preprocessors(
    checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Preprocessor]:
    """The preprocessor of each family of the goldens; it needs no weights."""
    folder = tmp_path_factory.mktemp("families")
    for name, config, image in (
        ("qwen3_vl", QWEN3_VL, PATCHES_16),
        ("qwen3_vl_eot", QWEN3_VL, PATCHES_16),
        ("qwen2_5_vl", QWEN2_5_VL, PATCHES_14),
        ("qwen2_5_omni", OMNI, PATCHES_14),
    ):
        backbone_cases.write_settings(folder / name, name, config, image)
    (folder / "qwen2_vl").symlink_to(checkpoints / "qwen2_vl")
    return {path.name: load_preprocessor(path) for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("family", "case"), CASES, ids=[f"{family}-{case['id']}" for family, case in CASES]
)
def test_tokens_of_a_golden_are_made_of_what_its_caller_said(
    preprocessors: dict[str, Preprocessor], family: str, case: dict[str, Any]
) -> None:
    preprocessor, embedding = preprocessors[family], backbone_cases.embedding_of(case)
    prompt = embedding.prompt
    if "generation_prompt" in case["input"]:
        prompt = replace(prompt, generation_prompt=case["input"]["generation_prompt"])
    given: Any = backbone_cases.prepare(Recorder(preprocessor), case)
    said = request_of(case)
    request = replace(given, prompt=None, instruction=said.instruction, parts=said.parts)
    golden = backbone_cases.goldens()[f"{family}/input_ids/{case['id']}"].tolist()
    plain = [list(range(len(golden)))] * 3
    positions = backbone_cases.goldens().get(f"{family}/positions/{case['id']}", np.array(plain))
    for control_tokens in (False, True):
        prompt = replace(prompt, control_tokens=control_tokens)
        prepared = preprocessor.prepare(request, replace(embedding, prompt=prompt))
        # What callers write as words is no control token, unless that is asked for.
        same = control_tokens or case["id"] != "text-added-token"
        assert (prepared.token_ids.tolist() == golden) == same
        assert (prepared.positions.tolist() == positions.tolist()) == same


@pytest.mark.parametrize(("family", "form"), sorted({(f, case["form"]) for f, case in CASES}))
def test_what_is_transparent_is_shown_as_the_authors_show_it(
    preprocessors: dict[str, Preprocessor], family: str, form: str
) -> None:
    file = io.BytesIO()
    Image.new("RGBA", (60, 60), (0, 0, 0, 0)).save(file, "PNG")
    request = Request(images=(measure_image(file.getvalue(), Limits()),), text="a")
    prepared = preprocessors[family].prepare(request, preset.read(PRESETS[form]).embedding)
    white = form == "qwen3_vl_embedding"  # which alone does more than convert("RGB")
    assert (prepared.media[0].values == 255 * white).all()


def test_every_form_of_the_goldens_has_a_preset() -> None:
    assert len(CASES) == 113
    assert {case["form"] for _, case in CASES} == set(PRESETS)


CHATTED = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n<|endoftext|>"
)
SEEN = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.mark.parametrize(
    ("name", "request_", "prompt"),
    [
        (
            "rzen-embed",
            Request(instruction="Find the image of: ", text="a kitten"),
            CHATTED.format("Find the image of: a kitten"),
        ),
        (
            "rzen-embed",
            Request(instruction="Represent the given image.", images=(PICTURE, PICTURE)),
            CHATTED.format(f"{SEEN}{SEEN}Represent the given image."),
        ),
        (
            "moca",
            Request(instruction="Represent the image:", text="What is in it\n", images=(PICTURE,)),
            f"{SEEN}Represent the image: What is in it\n",
        ),
        ("moca", Request(text="A cat and a dog"), "A cat and a dog"),
    ],
)
def test_prompt_of_a_preset_without_goldens_is_that_of_its_source(
    name: str, request_: Request, prompt: str
) -> None:
    assert prompt_of(preset.read(name).embedding.prompt, request_) == prompt


@pytest.mark.parametrize("case", [case for _, case in CASES if case["id"].startswith("lco-")])
def test_line_of_lco_embedding_is_of_the_form(case: dict[str, Any]) -> None:
    said = request_of(case)
    template = preset.read("lco-embedding-omni").embedding.prompt
    assert prompt_of(template, replace(said, parts=said.parts[:-1]), OMNI_NAMES) == case["text"]


@pytest.mark.parametrize("name", preset.names())
def test_preset_says_where_it_is_from(name: str) -> None:
    found = preset.read(name)
    assert found.source.startswith("https://")
    assert found.about
    assert found.base or not found.adapter


def test_unknown_preset_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        RegistryInputError, match="no preset 'gme'; there are chat, e5-omni, gme-qwen2-vl"
    ):
        preset.read("gme")


def test_published_similarities_are_those_of_the_authors() -> None:
    published = {
        name: [(one.right.text, one.cosine) for one in preset.read(name).example[:2]]
        for name in ("vlm2vec-full", "vlm2vec-v2")
    }
    assert published == {
        "vlm2vec-full": [("A cat and a dog", 0.3008), ("A cat and a tiger", 0.2051)],
        "vlm2vec-v2": [("A cat and a dog", 0.3281), ("A cat and a tiger", 0.2871)],
    }


SYSTEM = PromptTemplate(
    system="Default.", instruction="system", system_turn="[{system}]", user_turn="<{content}>",
    brackets=("(", ")"), between_media="", media_separator="", empty="NULL",
)  # fmt: skip


@pytest.mark.parametrize(
    ("template", "request_", "prompt"),
    [
        (SYSTEM, Request(), "[Default.]<NULL>"),
        (SYSTEM, Request(text=""), "[Default.]<>"),
        (SYSTEM, Request(instruction="Find"), "[Find]<NULL>"),
        (replace(SYSTEM, full_stop=True), Request(instruction=" Find "), "[Find.]<NULL>"),
        (replace(SYSTEM, full_stop=True), Request(instruction="Find?"), "[Find?]<NULL>"),
        (replace(SYSTEM, full_stop=True), Request(instruction=" \n"), "[Default.]<NULL>"),
        (replace(SYSTEM, system=""), Request(text="a"), "<a>"),
        # Curly braces of a caller are no places of the template.
        (SYSTEM, Request(instruction="{content}", text="{system}"), "[{content}]<{system}>"),
        (
            replace(SYSTEM, instruction="text", separator=": "),
            Request(instruction="Find", text="a", images=(PICTURE,)),
            "[Default.]<(<|image_pad|>)Find: a>",
        ),
        (
            replace(SYSTEM, order=("text", "image", "video"), media_separator="/"),
            Request(text="a", images=(PICTURE, PICTURE)),
            "[Default.]<a/(<|image_pad|>)(<|image_pad|>)>",
        ),
        (
            replace(SYSTEM, order=("given",), instruction="text", separator=": "),
            Request(
                instruction="Find", parts=(Medium.IMAGE, "a", Medium.IMAGE), images=(PICTURE,) * 2
            ),
            "[Default.]<(<|image_pad|>)Find: a(<|image_pad|>)>",
        ),
        (
            replace(SYSTEM, order=("given",), instruction="text"),
            Request(instruction="Find", images=(PICTURE,)),
            "[Default.]<(<|image_pad|>)Find>",
        ),
        (
            replace(SYSTEM, blanked=("<image>",), collapse=True),
            Request(text=" a<image> \n b "),
            "[Default.]<a b>",
        ),
        (replace(SYSTEM, blanked=("<image>",), collapse=True), Request(text=" "), "[Default.]< >"),
        (
            replace(SYSTEM, collapse=True),
            Request(images=(PICTURE,)),
            "[Default.]<(<|image_pad|>) >",
        ),
        (
            replace(SYSTEM, collapse=True, instruction="text", separator=": "),
            Request(instruction=" Find ", text=" \n"),
            "[Default.]<Find>",
        ),
        (
            replace(SYSTEM, audio_brackets=("{", "}")),
            Request(text="a", images=(PICTURE,), audios=(SOUND, SOUND)),
            "[Default.]<(<|image_pad|>){<|audio_pad|>}{<|audio_pad|>}a>",
        ),
        (
            replace(SYSTEM, order=("audio", "video", "image", "text")),
            Request(text="a", images=(PICTURE,), audios=(SOUND,)),
            "[Default.]<<|audio_pad|>(<|image_pad|>)a>",
        ),
        (replace(SYSTEM, closing=" This {kind}:"), Request(text="a"), "[Default.]<a This text:>"),
        (
            replace(SYSTEM, closing=" This {kind}:"),
            Request(text="{kind}", audios=(SOUND,)),
            "[Default.]<<|audio_pad|>{kind} This audio:>",
        ),
        (
            replace(SYSTEM, order=("given",), closing=" This {kind}:"),
            Request(parts=(Medium.IMAGE, "a"), images=(PICTURE,)),
            "[Default.]<(<|image_pad|>)a This image:>",
        ),
    ],
)
def test_what_a_template_may_say(template: PromptTemplate, request_: Request, prompt: str) -> None:
    assert prompt_of(template, request_) == prompt
