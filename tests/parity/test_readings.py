"""Pooling, attention both ways, the cache of features and training, in the families with DeepStack,
windows, normed heads and an audio tower: beside the same modules run input by input."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from tests.parity.backbone_cases import CASES, DATA, prepare
from tests.parity.make_backbones import write_all
from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.preprocess.images import measure_image
from vlm2vec_service.settings import EngineSettings, Limits
from vlm2vec_service.worker.codec import decode_batch, encode_batch
from vlm2vec_training.adapter import load_model, save_adapter
from vlm2vec_training.settings import AdapterSettings

IDS = {
    "qwen3_vl": ("text-default", "image-tiny", "image-two", "video-3"),
    "qwen2_5_vl": ("text", "image-two", "chat-image-gray-tall", "video-3"),
    "qwen2_5_omni": ("text", "audio-shortest", "image-audio", "chat-audio-between"),
}
"""Short cases of each family."""


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backbones")
    write_all(folder, *IDS)
    return folder


@pytest.fixture(scope="module", params=IDS)
def base(request: pytest.FixtureRequest, bases: Path) -> Path:
    found: Path = bases / request.param
    return found


@pytest.fixture(scope="module")
def inputs(base: Path) -> list[Prepared]:
    preprocessor = load_preprocessor(base)
    cases = {case["id"]: case for case in CASES[base.name]}
    return [prepare(preprocessor, cases[id]) for id in IDS[base.name]]


@pytest.fixture(scope="module")
def engine(base: Path) -> Engine:
    engine = Engine.load(base, EngineSettings(dtype="float32", vision_cache_bytes=1 << 24))
    engine.load_adapter("lora", DATA / "adapters" / base.name / "lora")
    return engine


@torch.inference_mode()
def by_modules(engine: Engine, prepared: Prepared) -> npt.NDArray[np.float32]:
    """The vector of one input by the modules of transformers alone, without our decoder."""
    backbone: Any = engine.backbone
    rows = [torch.arange(media.start, media.start + media.tokens) for media in prepared.media]
    features = torch.cat(backbone.encode(prepared.media)) if rows else None
    hidden = backbone.embed_tokens(torch.tensor(prepared.token_ids).long())
    entering = backbone.entering(hidden, torch.cat(rows) if rows else torch.empty(0), features)
    length = len(prepared)
    rotary = backbone.rotary(torch.tensor(prepared.positions), [length])
    segments = Segments([length], not prepared.both_ways, engine.device)
    pooled = torch.arange(length - prepared.pooled, length)
    states = backbone.decode(entering, rotary, segments, pooled)
    vector: npt.NDArray[np.float32] = F.normalize(states.mean(0), dim=0).numpy()
    return vector


def test_every_way_to_read_an_input_is_packed_with_the_others(
    engine: Engine, inputs: list[Prepared]
) -> None:
    ways = [
        replace(one, pooled=pooled, both_ways=both_ways)
        for one in inputs
        for pooled in (1, len(one), len(one) // 3)
        for both_ways in (False, True)
    ]
    expected = np.stack([by_modules(engine, one) for one in ways])
    ours = engine.embed([(one, None) for one in ways])
    assert (ours * expected).sum(1).min() > 0.99999
    # The ways are different ones.
    same = expected @ expected.T > 0.9999
    assert same.sum() == len(ways)
    # Rows of an adapter are those of its tokens, also where all of them are pooled.
    adapted = engine.embed([(one, name) for one in ways for name in (None, "lora")])[1::2]
    alone = np.concatenate([engine.embed([(one, "lora")]) for one in ways])
    assert (adapted * alone).sum(1).min() > 0.99999


def test_features_of_all_layers_come_from_the_cache(engine: Engine, inputs: list[Prepared]) -> None:
    first = engine.embed([(one, None) for one in inputs])
    misses = engine.cache.misses
    np.testing.assert_allclose(engine.embed([(one, None) for one in inputs]), first, atol=1e-6)
    assert engine.cache.misses == misses


def test_the_worker_reads_inputs_as_the_front_end_says(inputs: list[Prepared]) -> None:
    given = [replace(inputs[0], pooled=4, both_ways=True), inputs[1]]
    message = worker_pb2.RunBatchRequest()
    message.ParseFromString(
        encode_batch(worker_pb2.RunBatchRequest(), ((one, "", None) for one in given))
    )
    found = decode_batch(message)
    assert [(one.pooled, one.both_ways) for one in found] == [(4, True), (1, False)]


def test_embedding_json_says_how_an_input_is_read(base: Path) -> None:
    preprocessor = load_preprocessor(base)
    request = Request(text="a temple by the water")
    whole = EmbeddingConfig(pooling="mean", attention="bidirectional")
    found = preprocessor.prepare(request, whole)
    assert (found.pooled, found.both_ways) == (len(found), True)
    ids = preprocessor.prepare(Request(token_ids=tuple(map(int, found.token_ids))), whole)
    assert (ids.pooled, ids.both_ways) == (len(found), True)
    turns = {"system": "Be brief.", "system_turn": "<|im_start|>{system}<|im_end|>\n"}
    chat = EmbeddingConfig.from_dict({"pooling": "mean_without_system", "prompt": turns})
    longer = preprocessor.prepare(request, chat)
    assert longer.pooled == len(found)
    np.testing.assert_array_equal(longer.token_ids[-longer.pooled :], found.token_ids)


@pytest.mark.parametrize("adapter", ["lora", "dora"])
def test_training_computes_the_vectors_of_the_engine(
    base: Path, engine: Engine, inputs: list[Prepared], adapter: str, tmp_path: Path
) -> None:
    settings = AdapterSettings(adapter=adapter, rank=4, alpha=8, dropout=0.0)
    model = load_model(base, settings, "cpu", "float32", checkpointing=True)
    vectors = model.embedder(inputs)
    expected = engine.embed([(one, None) for one in inputs])
    assert (vectors.detach().numpy() * expected).sum(1).min() > 0.99999
    (vectors @ vectors.T)[0, 1:].sum().backward()
    trained = {name: one for name, one in model.peft.named_parameters() if one.requires_grad}
    assert any("visual" in name for name in trained) == (base.name != "qwen3_vl")
    assert any("audio_tower" in name for name in trained) == (base.name == "qwen2_5_omni")
    assert [name for name, one in trained.items() if one.grad is None] == []
    with torch.no_grad():
        for name, one in trained.items():
            if "lora_B" in name:
                one.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    save_adapter(model.peft, model.embedding, tmp_path)
    engine.load_adapter("trained", tmp_path)
    model.peft.eval()
    with torch.no_grad():
        vectors = model.embedder(inputs).numpy()
    ours = engine.embed([(one, "trained") for one in inputs])
    assert (vectors * ours).sum(1).min() > 0.99999


def test_pictures_of_qwen2_5_vl_are_as_vlm2vec_shows_them_unless_a_rule_says_otherwise(
    bases: Path,
) -> None:
    preprocessor = load_preprocessor(bases / "qwen2_5_vl")
    picture = Image.new("RGBA", (60, 60), (0, 0, 0, 0))
    file = io.BytesIO()
    picture.save(file, "PNG")
    see_through = Request(images=(measure_image(file.getvalue(), Limits()),))
    ribbon = Request(images=(Image.new("RGB", (5700, 28)),))
    usual, viewed = EmbeddingConfig(), EmbeddingConfig.from_dict({"image": {"small": "keep"}})
    assert preprocessor.prepare(see_through, usual).media[0].values.max() == 0
    assert preprocessor.prepare(see_through, viewed).media[0].values.min() == 255
    assert preprocessor.prepare(ribbon, usual).media[0].values.shape == (1, 448, 448, 3)
    with pytest.raises(InvalidInputError, match="5700x28 is longer than 200 to 1"):
        preprocessor.prepare(ribbon, viewed)
