"""The Qwen families, Qwen2-VL in chat form, beside the vectors of their authors' own code."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch

from tests.parity.backbone_cases import CASES, DATA, goldens, prepare_all
from tests.parity.make_backbones import write_all
from tests.parity.wide_products import WideProducts
from vlm2vec_service.engine import Engine
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.preprocess.prepared import Media
from vlm2vec_service.settings import EngineSettings

FAMILIES = tuple(CASES)
LONGEST = 2000
"""Tokens of all inputs that are run one by one and in bfloat16, which takes long on a CPU."""


@pytest.fixture(scope="module")
def bases(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the checkpoint of each family."""
    folder = tmp_path_factory.mktemp("backbones")
    write_all(folder)
    (folder / "qwen2_vl").symlink_to(checkpoints / "qwen2_vl")
    return folder


@pytest.fixture(scope="module", params=FAMILIES)
def base(request: pytest.FixtureRequest, bases: Path) -> Path:
    found: Path = bases / request.param
    return found


@pytest.fixture(scope="module")
def prepared(base: Path) -> list[Prepared]:
    return prepare_all(base)


def adapters_of(family: str) -> list[str | None]:
    """The base, and the adapters that there are."""
    there = (DATA / "adapters" / family).is_dir()
    return [None, "lora", "dora"] if there else [None]


def load(base: Path, dtype: str = "float32") -> Engine:
    settings = EngineSettings(dtype=dtype, token_budget=10**6, vision_cache_bytes=0)
    engine = Engine.load(base, settings)
    for name in adapters_of(base.name):
        if name:
            engine.load_adapter(name, DATA / "adapters" / base.name / name)
    return engine


@pytest.fixture(scope="module")
def engine(base: Path) -> Engine:
    return load(base)


def cosines(
    family: str, vectors: npt.NDArray[np.float32], cases: list[dict[str, Any]]
) -> dict[str, float]:
    """Compares ``vectors``, of each case with each adapter in turn, with the goldens."""
    keys = [f"{n or 'base'}/{case['id']}" for case in cases for n in adapters_of(family)]
    return {
        key: float(vector @ goldens()[f"{family}/{key}"])
        for key, vector in zip(keys, vectors, strict=True)
    }


def test_ids_and_positions(base: Path, prepared: list[Prepared]) -> None:
    for case, found in zip(CASES[base.name], prepared, strict=True):
        ids = goldens()[f"{base.name}/input_ids/{case['id']}"]
        np.testing.assert_array_equal(found.token_ids, ids, case["id"])
        plain = np.broadcast_to(np.arange(len(ids)), (3, len(ids)))
        positions = goldens().get(f"{base.name}/positions/{case['id']}", plain)
        np.testing.assert_array_equal(found.positions, positions, case["id"])


def test_pixels_and_features(base: Path, prepared: list[Prepared], engine: Engine) -> None:
    backbone: Any = engine.backbone
    for case, found in zip(CASES[base.name], prepared, strict=True):
        media = sorted(found.media, key=lambda item: item.kind)
        audios = [one for one in media if one.kind == "audio"]
        pictures = [one for one in media if one.kind != "audio"]
        film = "videos" in case
        if audios:
            expected = goldens()[f"{base.name}/audio/{case['id']}"]
            np.testing.assert_allclose(means(engine, audios), expected, rtol=0, atol=1e-5)
        if not pictures:
            continue
        cut = [backbone.cut(np.stack([one.values])).flatten() for one in pictures]
        pixels = torch.cat(cut).numpy()
        spread = pixels.std(dtype=np.float64)
        statistics = [pixels.size, pixels.mean(dtype=np.float64), spread, pixels.min()]
        expected = goldens()[f"{base.name}/pixels/{case['id']}"]
        np.testing.assert_allclose(
            [*statistics, pixels.max()], expected, rtol=0, atol=3e-4 if film else 1e-6
        )
        expected = goldens()[f"{base.name}/vision/{case['id']}"]
        found_means = means(engine, pictures)
        np.testing.assert_allclose(found_means, expected, rtol=0, atol=3e-3 if film else 1e-5)


@torch.inference_mode()
def means(engine: Engine, media: Sequence[Media]) -> npt.NDArray[np.float32]:
    """The mean of the features of each token of ``media``, as they enter the language model."""
    features = torch.cat(engine.backbone.encode(media, engine.media.runs))
    found: npt.NDArray[np.float32] = features[:, : engine.dim].mean(1).numpy()
    return found


def test_float32_all_in_one_batch(base: Path, prepared: list[Prepared], engine: Engine) -> None:
    inputs = [(one, name) for one in prepared for name in adapters_of(base.name)]
    found = cosines(base.name, engine.embed(inputs), CASES[base.name])
    assert min(found.values()) > 0.99999, min(found.items(), key=lambda pair: pair[1])


def short(base: Path, prepared: list[Prepared]) -> tuple[list[dict[str, Any]], list[Prepared]]:
    """The shortest of the cases, with media among them, that have `LONGEST` tokens together."""
    order = sorted(range(len(prepared)), key=lambda index: len(prepared[index]))
    total, kept = 0, []
    for index in order:
        total += len(prepared[index])
        kept += [index] if total < LONGEST else []
    assert any(prepared[index].media for index in kept)
    return [CASES[base.name][index] for index in kept], [prepared[index] for index in kept]


def test_float32_alone_and_merged(base: Path, prepared: list[Prepared], engine: Engine) -> None:
    cases, ones = short(base, prepared)
    names = adapters_of(base.name)
    alone = np.concatenate([engine.embed([(one, name)]) for one in ones for name in names])
    assert min(cosines(base.name, alone, cases).values()) > 0.99999
    for name in engine.adapters:
        engine.merged.least_rows = 1
        engine.merged.merge(name)
    merged = engine.embed([(one, name) for one in ones for name in names])
    assert min(cosines(base.name, merged, cases).values()) > 0.99999


def test_bfloat16(base: Path, prepared: list[Prepared]) -> None:
    cases, ones = short(base, prepared)
    engine = load(base, "bfloat16")
    with WideProducts():
        vectors = engine.embed([(one, name) for one in ones for name in adapters_of(base.name)])
    found = cosines(base.name, vectors, cases)
    assert min(found.values()) > 0.995, sorted(found.items(), key=lambda pair: pair[1])[:9]
