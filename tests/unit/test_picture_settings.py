"""What ``embedding.json`` says about pictures and the length of text."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ARCHITECTURES
from tests.unit.pictures import noise
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.media_rules import ImageRules
from vlm2vec_registry.prompt_template import PromptTemplate
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Prepared, Preprocessor, Request
from vlm2vec_service.preprocess.images import EncodedImage, measure_image
from vlm2vec_service.preprocess.messages import parse_input
from vlm2vec_service.preprocess.pictures import Frames
from vlm2vec_service.settings import Limits

DEFAULT = EmbeddingConfig()
IMAGE = {"qwen2_vl": "<|image_pad|>", "phi3_v": "<|image_1|>"}
WORDS = "one two three four five six seven eight nine ten"
IMAGE_ID = 2006
VISION = "<|vision_start|><|image_pad|><|vision_end|>"


@pytest.fixture(scope="module")
def preprocessors(checkpoints: Path) -> dict[str, Preprocessor]:
    return {name: load_preprocessor(checkpoints / name) for name in ARCHITECTURES}


def same(one: Prepared, other: Prepared) -> bool:
    return one.token_ids.tolist() == other.token_ids.tolist() and [
        (media.kind, media.start, media.values.shape, media.values.tobytes()) for media in one.media
    ] == [
        (media.kind, media.start, media.values.shape, media.values.tobytes())
        for media in other.media
    ]


def file(image: Image.Image, orientation: int = 1) -> EncodedImage:
    exif = Image.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    return measure_image(buffer.getvalue(), Limits())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("source", [(300, 100), (20, 90), (5, 1500), (112, 84)])
def test_resize_is_that_of_pillow_before_all_else(
    preprocessors: dict[str, Preprocessor], architecture: str, source: tuple[int, int]
) -> None:
    image = noise(*source)
    resized = image.resize((448, 224))
    preprocessor = preprocessors[architecture]
    embedding = EmbeddingConfig(image_rules=ImageRules(resize=(448, 224)))
    for given in (image, file(image)):
        got = preprocessor.prepare(Request(text="a", images=(given,)), embedding)
        assert same(got, preprocessor.prepare(Request(text="a", images=(resized,)), DEFAULT))


def test_resize_of_upstream_for_the_large_pictures_of_v1(
    preprocessors: dict[str, Preprocessor],
) -> None:
    settings = {"max_pixels": 2_359_296}
    embedding = EmbeddingConfig(image=settings, image_rules=ImageRules(resize=(1344, 1344)))
    (media,) = (
        preprocessors["qwen2_vl"].prepare(Request(images=(noise(640, 480),)), embedding).media
    )
    assert (media.values.shape, media.tokens) == ((1, 1344, 1344, 3), 48 * 48)
    expected = noise(640, 480).resize((1344, 1344))
    np.testing.assert_array_equal(media.values[0], np.asarray(expected))


def test_resize_leaves_frames_alone(preprocessors: dict[str, Preprocessor]) -> None:
    request = Request(text="a", videos=(Frames((noise(112, 84), noise(112, 84, 1))),))
    embedding = EmbeddingConfig(image_rules=ImageRules(resize=(448, 224)))
    preprocessor = preprocessors["qwen2_vl"]
    assert same(preprocessor.prepare(request, embedding), preprocessor.prepare(request, DEFAULT))


def test_resize_beyond_the_limit_of_pixels_is_refused(checkpoints: Path) -> None:
    preprocessor = load_preprocessor(checkpoints / "qwen2_vl", Limits(max_image_pixels=100_000))
    embedding = EmbeddingConfig(image_rules=ImageRules(resize=(448, 224)))
    with pytest.raises(InvalidInputError, match=r"images\[0\]: 448x224 pixels .* 100000"):
        preprocessor.prepare(Request(images=(noise(9, 9),)), embedding)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_decode_is_viewed_unless_the_adapter_says_raw(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    image = noise(200, 90)
    preprocessor = preprocessors[architecture]
    for decode, shown in (("viewed", image.rotate(-90, expand=True)), ("raw", image)):
        embedding = EmbeddingConfig(image_rules=ImageRules(decode=decode))
        got = preprocessor.prepare(Request(text="a", images=(file(image, 6),)), embedding)
        assert same(got, preprocessor.prepare(Request(text="a", images=(shown,)), DEFAULT)), decode


def cut(most: int) -> EmbeddingConfig:
    return EmbeddingConfig(max_text_tokens=most)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("request_", [Request(prompt=WORDS), Request(text=WORDS)])
def test_text_is_cut_from_its_end(
    preprocessors: dict[str, Preprocessor], architecture: str, request_: Request
) -> None:
    preprocessor = preprocessors[architecture]
    whole = preprocessor.prepare(request_, DEFAULT).token_ids.tolist()
    for most in (1, 5, len(whole) - 1, len(whole), len(whole) + 9):
        assert preprocessor.prepare(request_, cut(most)).token_ids.tolist() == whole[:most]
    ids = tuple(id for id in whole if id > 2)
    given = preprocessor.prepare(Request(token_ids=ids), cut(3)).token_ids.tolist()
    assert given == list(ids[:3])


def test_suffix_of_the_template_is_cut_as_upstream_cuts(
    preprocessors: dict[str, Preprocessor],
) -> None:
    embedding = EmbeddingConfig(prompt=PromptTemplate(suffix="<|endoftext|>"), max_text_tokens=4)
    preprocessor = preprocessors["qwen2_vl"]
    ids = preprocessor.prepare(Request(text=WORDS), embedding).token_ids.tolist()
    assert ids == preprocessor.prepare(Request(text=WORDS), DEFAULT).token_ids.tolist()[:4]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_media_are_never_cut(preprocessors: dict[str, Preprocessor], architecture: str) -> None:
    preprocessor = preprocessors[architecture]
    for prompt in (f"{IMAGE[architecture]} {WORDS}", f"{WORDS} {IMAGE[architecture]} {WORDS}"):
        request = Request(prompt=prompt, images=(noise(84, 56),))
        whole, short = (preprocessor.prepare(request, config) for config in (DEFAULT, cut(4)))
        media = [id for id in whole.token_ids.tolist() if id < 0 or id == IMAGE_ID]
        text = [id for id in whole.token_ids.tolist() if id not in media]
        assert len(media) == whole.media[0].tokens
        got = short.token_ids.tolist()
        assert [id for id in got if id in media] == media
        assert [id for id in got if id not in media] == text[:4]
        assert short.media[0].digest == whole.media[0].digest
        start = short.media[0].start
        assert got[start : start + len(media)] == media
        assert len(short) == 4 + len(media)


def test_marks_around_media_are_never_cut(preprocessors: dict[str, Preprocessor]) -> None:
    preprocessor = preprocessors["qwen2_vl"]
    request = Request(prompt=f"{WORDS}{VISION}{WORDS}", images=(noise(84, 56),))
    short = preprocessor.prepare(request, cut(4))
    first = preprocessor.prepare(Request(prompt=WORDS), cut(4)).token_ids.tolist()
    assert short.token_ids.tolist() == [*first, 2003, *[IMAGE_ID] * 6, 2004]
    # The positions of a picture behind <|vision_start|>, here of two rows and three columns.
    assert short.positions[:, 5:].tolist() == [
        [5, 5, 5, 5, 5, 5, 8], [5, 5, 5, 6, 6, 6, 8], [5, 6, 7, 5, 6, 7, 8]
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_limit_of_tokens_counts_what_is_left(checkpoints: Path, architecture: str) -> None:
    preprocessor = load_preprocessor(checkpoints / architecture, Limits(max_tokens=5))
    assert len(preprocessor.prepare(Request(text=WORDS), cut(5))) == 5
    with pytest.raises(InvalidInputError, match="6 tokens are more than max_tokens, 5"):
        preprocessor.prepare(Request(text=WORDS), cut(6))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_damage_found_by_decoding_names_the_part(
    preprocessors: dict[str, Preprocessor], architecture: str
) -> None:
    whole = file(noise(64, 48)).data
    parts = [pb.Part(text="a"), pb.Part(image=whole), pb.Part(image=whole[: len(whole) // 2])]
    request = parse_input(pb.Input(parts=parts), Limits(), 8)
    with pytest.raises(InvalidInputError, match="truncated or damaged PNG") as caught:
        preprocessors[architecture].prepare(request, DEFAULT)
    assert caught.value.field == "parts[2].image"
