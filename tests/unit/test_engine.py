"""What holds whatever the batch: independence, caching, adapters that come and go meanwhile."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import CASES, adapter_folder, case_request
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.packing import Item, batches
from vlm2vec_service.preprocess import Prepared, Request
from vlm2vec_service.settings import EngineSettings


def make_engine(checkpoints: Path, architecture: str, **settings: Any) -> Engine:
    engine = Engine.load(
        checkpoints / architecture, EngineSettings(**{"dtype": "float32", **settings})
    )
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder(architecture, name))
    return engine


def prepare(checkpoints: Path, architecture: str, *ids: str) -> list[Prepared]:
    """Prepares parity cases; Phi-3.5-V's pictures as one crop, since CLIP takes long over each."""
    preprocessor = load_preprocessor(checkpoints / architecture)
    config = EmbeddingConfig(image={"num_crops": 1} if architecture == "phi3_v" else {})
    cases = {case["id"]: case for case in CASES[architecture]}
    return [preprocessor.prepare(case_request(cases[id]), config) for id in ids]


@pytest.mark.parametrize("architecture", ["qwen2_vl", "phi3_v"])
def test_token_budget_does_not_change_vectors(checkpoints: Path, architecture: str) -> None:
    """Phi-3.5-V: short and long RoPE factors meet in one batch."""
    ids = ("text", "image-portrait", "text-unicode", "image-two", "text-long")
    pairs = [
        (prepared, name)
        for prepared in prepare(checkpoints, architecture, *ids)
        for name in ("dora", None, "lora")
    ]
    alone = make_engine(checkpoints, architecture, token_budget=1).embed(pairs)
    for budget in (64, 400, 100_000):
        together = make_engine(
            checkpoints, architecture, token_budget=budget, vision_batch_patches=budget
        ).embed(pairs)
        assert min((alone * together).sum(axis=1)) > 0.99999, budget


def test_unnormalized(checkpoints: Path) -> None:
    engine = make_engine(checkpoints, "qwen2_vl")
    pairs: list[tuple[Prepared, str | None]] = [(prepare(checkpoints, "qwen2_vl", "text")[0], None)]
    raw, unit = engine.embed(pairs, normalize=False)[0], engine.embed(pairs)[0]
    assert abs(np.linalg.norm(raw) - 1) > 0.1
    np.testing.assert_allclose(raw / np.linalg.norm(raw), unit, atol=1e-6)
    assert engine.dim == len(unit) == 128


def test_no_input(checkpoints: Path) -> None:
    assert make_engine(checkpoints, "qwen2_vl").embed([]).shape == (0, 128)


def test_batches_keep_order_and_budget() -> None:
    def item(length: int) -> Item:
        ids = np.zeros(length, np.int32)
        return Item(Prepared(ids, np.zeros((3, length), np.int32)), None)

    assert batches([item(n) for n in (3, 4, 2, 99, 1, 1)], 9) == [[0, 1, 2], [3], [4, 5]]
    assert batches([], 9) == []


@pytest.mark.parametrize(("architecture", "shared"), [("qwen2_vl", True), ("phi3_v", False)])
def test_cache_is_shared_where_no_adapter_touches_the_tower(
    checkpoints: Path, architecture: str, shared: bool
) -> None:
    (image,) = prepare(checkpoints, architecture, "image-portrait")
    fresh = make_engine(checkpoints, architecture, vision_cache_bytes=0)
    cached = make_engine(checkpoints, architecture)
    names = (None, "lora", "dora")
    for _ in range(2):
        for name in names:
            np.testing.assert_allclose(
                cached.embed([(image, name)]), fresh.embed([(image, name)]), atol=1e-5
            )
    assert fresh.cache.hits == 0
    assert cached.cache.misses == (1 if shared else 3)
    assert cached.cache.hits == 6 - cached.cache.misses


def test_cache_tells_reloaded_adapters_apart(checkpoints: Path) -> None:
    (image,) = prepare(checkpoints, "phi3_v", "image-portrait")
    engine = make_engine(checkpoints, "phi3_v")
    expected = engine.embed([(image, "lora")])
    engine.embed([(image, "dora")])
    engine.load_adapter("dora", adapter_folder("phi3_v", "lora"))
    np.testing.assert_allclose(engine.embed([(image, "dora")]), expected, atol=1e-5)


def test_cache_is_bounded(checkpoints: Path) -> None:
    images = prepare(checkpoints, "qwen2_vl", "image", "image-portrait", "image-two", "image-gray")
    largest = 4 * 128 * 247
    engine = make_engine(checkpoints, "qwen2_vl", vision_cache_bytes=largest + 1000)
    for image in images:
        engine.embed([(image, None)])
        assert engine.cache.nbytes <= largest + 1000
    engine.embed([(images[-1], None)])
    assert engine.cache.hits == 1


def test_same_image_twice_in_a_batch_is_encoded_once(checkpoints: Path) -> None:
    preprocessor = load_preprocessor(checkpoints / "qwen2_vl")
    picture = case_request(CASES["qwen2_vl"][3]).images[0]
    twice = Request(prompt="<|image_pad|> <|image_pad|> same?", images=(picture, picture))
    prepared = preprocessor.prepare(twice, EmbeddingConfig())
    engine = make_engine(checkpoints, "qwen2_vl")
    engine.embed([(prepared, None), (prepared, "lora")])
    assert len(engine.cache) == 1


def test_adapters_come_and_go_while_batches_run(checkpoints: Path, golden: dict[str, Any]) -> None:
    """Every vector is that of one version or the other, and of the one loaded when it started."""
    engine = make_engine(checkpoints, "qwen2_vl")
    prepared = prepare(checkpoints, "qwen2_vl", "text", "image-portrait")
    engine.load_adapter("flipping", adapter_folder("qwen2_vl", "lora"))
    stop = threading.Event()
    flips = 0

    def flip() -> None:
        nonlocal flips
        while not stop.is_set():
            for name in ("dora", "lora"):
                engine.load_adapter("flipping", adapter_folder("qwen2_vl", name))
                engine.load_adapter("passing", adapter_folder("qwen2_vl", name))
                engine.unload_adapter("passing")
                flips += 1

    thread = threading.Thread(target=flip)
    thread.start()
    try:
        seen: set[str] = set()
        runs = 0
        while (runs := runs + 1) <= 60 or flips <= 2 or len(seen) < 2:
            vectors = engine.embed(
                [(item, name) for item in prepared for name in ("flipping", "dora", None)]
            )
            for row, id in ((0, "text"), (3, "image-portrait")):
                scores = {
                    name: float(vectors[row] @ golden[f"qwen2_vl/{name}/{id}"])
                    for name in ("lora", "dora")
                }
                best = max(scores, key=lambda name: scores[name])
                assert scores[best] > 0.9999
                seen.add(best)
                assert vectors[row + 1] @ golden[f"qwen2_vl/dora/{id}"] > 0.9999
                assert vectors[row + 2] @ golden[f"qwen2_vl/base/{id}"] > 0.9999
    finally:
        stop.set()
        thread.join()
