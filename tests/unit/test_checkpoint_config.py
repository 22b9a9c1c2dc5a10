"""The two configuration files of a checkpoint with each of their keys missing or malformed: loaded
and able to embed, or a `CheckpointError` that says which file is at fault."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import ARCHITECTURES
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.engine import build_backbone
from vlm2vec_service.errors import CheckpointError
from vlm2vec_service.preprocess import Request
from vlm2vec_service.settings import EngineSettings

FILES = ("config.json", "preprocessor_config.json")
WITHOUT_DEFAULT = {
    "qwen2_vl": {
        "config.json": {
            "model_type", "vocab_size", "image_token_id", "video_token_id",
            "vision_start_token_id", "rope_scaling.mrope_section",
        },
        "preprocessor_config.json": {
            "patch_size", "merge_size", "temporal_patch_size", "image_mean", "image_std",
        },
    },
    "phi3_v": {
        "config.json": {
            "model_type", "vocab_size", "embd_layer", "img_processor", "max_position_embeddings",
            "rope_scaling.short_factor", "rope_scaling.long_factor",
        },
        "preprocessor_config.json": {"image_mean", "image_std"},
    },
}  # fmt: skip
"""The keys that a checkpoint has to have, so that none is embedded with by a guess."""
Keys = tuple[str, ...]


@pytest.fixture(params=ARCHITECTURES)
def base(request: pytest.FixtureRequest, checkpoints: Path, tmp_path: Path) -> Path:
    """A copy of a checkpoint whose configuration a test may break."""
    return Path(shutil.copytree(checkpoints / request.param, tmp_path / request.param))


def keys_of(values: dict[str, Any], above: Keys = ()) -> Iterator[Keys]:
    """The path of every key, those of nested objects included."""
    for key, value in values.items():
        yield (*above, key)
        if isinstance(value, dict):
            yield from keys_of(value, (*above, key))


def changed(path: Path, change: Callable[[dict[str, Any], str], object]) -> Iterator[str]:
    """Gives each key in turn, while ``change`` has been made to it in the file: it takes the object
    that has the key, and the key."""
    before = path.read_text()
    for keys in keys_of(json.loads(before)):
        values = holder = json.loads(before)
        for key in keys[:-1]:
            holder = holder[key]
        change(holder, keys[-1])
        path.write_text(json.dumps(values))
        yield ".".join(keys)
    path.write_text(before)


def embed(base: Path) -> None:
    prepared = load_preprocessor(base).prepare(Request(text="A cat."), EmbeddingConfig())
    engine = Engine.load(base, EngineSettings(dtype="float32"))
    assert np.isfinite(engine.embed([(prepared, None)])).all()


def problem(load: Callable[[Path], object], base: Path) -> str:
    """What is said of a checkpoint when it is loaded; empty if nothing is."""
    try:
        load(base)
    except CheckpointError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("file", FILES)
def test_a_missing_key_is_named_with_its_file(base: Path, file: str) -> None:
    needed = set(WITHOUT_DEFAULT[base.name][file])
    for key in changed(base / file, lambda holder, key: holder.pop(key)):
        said = problem(embed, base)
        assert not said or str(base) in said
        if key in needed:
            needed.remove(key)
            assert file in said
            assert key.rpartition(".")[2] in said
    assert not needed


@pytest.mark.parametrize("value", [None, "half", []], ids=repr)
def test_a_malformed_value_is_no_bare_error(base: Path, value: Any) -> None:
    said = [
        problem(load, base)
        for file in FILES
        for _ in changed(base / file, lambda holder, key: holder.update({key: value}))
        for load in (load_preprocessor, build_backbone)
    ]
    assert any(said)
    assert all("config.json" in problem for problem in said if problem)
