"""Merged copies: the same vectors as with low ranks, made in steps, gone with their adapter."""

import contextlib
import dataclasses
import gc
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from tests.conftest import adapter_folder
from tests.unit.peft_adapters import make_adapter
from tests.unit.test_engine import prepare
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.merged import MergedCopies, MergedCopy
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.settings import EngineSettings

IDS = ("text", "text-unicode", "image-portrait")
KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("qwen2_vl", {"target_modules": ["q_proj", "v_proj", "down_proj"]}),
    "rslora": ("qwen2_vl", {"target_modules": ["k_proj", "up_proj"], "use_rslora": True, "r": 16}),
    "dora on what has biases": (
        "qwen2_vl", {"target_modules": ["q_proj", "k_proj", "v_proj"], "use_dora": True}
    ),
    "dora on everything": ("qwen2_vl", {"target_modules": "all-linear", "use_dora": True}),
    "ranks that differ": (
        "qwen2_vl",
        {"target_modules": ["q_proj", "k_proj", "gate_proj"], "rank_pattern": {"k_proj": 2}},
    ),
    "one layer": ("qwen2_vl", {"target_modules": ["o_proj"], "layers_to_transform": 1}),
    "the vision tower of qwen2_vl": (
        "qwen2_vl", {"target_modules": r".*\.(qkv|attn\.proj|fc1|fc2)", "use_dora": True}
    ),
    "clip of phi3_v": (
        "phi3_v",
        {"target_modules": r".*img_projection\.[02]|.*encoder.*(fc1|k_proj)", "use_dora": True},
    ),
    "phi3_v": ("phi3_v", {"target_modules": ["qkv_proj", "gate_up_proj"], "use_dora": True}),
}  # fmt: skip


def make_engine(checkpoints: Path, architecture: str, **settings: Any) -> Engine:
    options = {"dtype": "float32", "token_budget": 100_000, "vision_cache_bytes": 0, **settings}
    return Engine.load(checkpoints / architecture, EngineSettings(**options))


def tokens_by_path(engine: Engine) -> dict[str, int]:
    """The tokens since this was last asked."""
    counted = dict(engine.path_tokens)
    engine.path_tokens.clear()
    return counted


@pytest.mark.parametrize("kind", KINDS)
def test_both_paths_agree_in_float32(checkpoints: Path, tmp_path: Path, kind: str) -> None:
    architecture, options = KINDS[kind]
    merged_by_peft = make_adapter(checkpoints / architecture, tmp_path, **options)
    settings = EngineSettings(dtype="float32", token_budget=100_000)
    inputs = prepare(checkpoints, architecture, *IDS)
    engine = make_engine(checkpoints, architecture)
    engine.load_adapter("made", tmp_path)
    pairs = [(item, "made") for item in inputs]
    low_rank = engine.embed(pairs)
    tokens = sum(map(len, inputs))
    assert tokens_by_path(engine) == {"low_rank": tokens}
    engine.merged.merge("made")
    merged = engine.embed(pairs)
    assert tokens_by_path(engine) == {"merged": tokens}
    np.testing.assert_allclose(merged, low_rank, atol=1e-5)
    expected = Engine(merged_by_peft, settings).embed([(item, None) for item in inputs])
    np.testing.assert_allclose(merged, expected, atol=2e-5)
    # The other path is really another: some last bits differ.
    assert not np.array_equal(merged, low_rank)


@pytest.mark.parametrize("architecture", ["qwen2_vl", "phi3_v"])
def test_merged_low_rank_and_base_rows_in_one_batch(checkpoints: Path, architecture: str) -> None:
    engine = make_engine(checkpoints, architecture)
    engine.merged.least_rows = 1
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder(architecture, name))
        engine.load_adapter(f"{name} merged", adapter_folder(architecture, name))
    names = ("dora merged", None, "lora", "lora merged", "dora")
    pairs = [(item, name) for item in prepare(checkpoints, architecture, *IDS) for name in names]
    expected = engine.embed(pairs)
    tokens_by_path(engine)
    for name in ("lora merged", "dora merged"):
        engine.merged.merge(name)
    np.testing.assert_allclose(engine.embed(pairs), expected, atol=1e-5)
    counted = tokens_by_path(engine)
    assert counted["merged"] == counted["low_rank"] == 2 * counted["base"] > 0


def test_few_rows_beside_others_are_added_to_the_base(checkpoints: Path) -> None:
    engine = make_engine(checkpoints, "qwen2_vl")
    for name in ("lora", "dora"):
        engine.load_adapter(name, adapter_folder("qwen2_vl", name))
    engine.merged.merge("dora")
    (short, long) = prepare(checkpoints, "qwen2_vl", "text", "image-portrait")
    engine.merged.least_rows = len(long)
    assert len(short) < len(long)
    engine.embed([(short, "dora"), (short, None)])
    assert tokens_by_path(engine) == {"base": len(short), "low_rank": len(short)}
    engine.embed([(long, "dora"), (short, None)])
    assert tokens_by_path(engine) == {"base": len(short), "merged": len(long)}
    engine.embed([(short, "dora")])
    assert tokens_by_path(engine) == {"merged": len(short)}


def busy(engine: Engine, prepared: Prepared, name: str, batches: int) -> None:
    """Runs ``batches`` with one input for the adapter ``name``, without a step of merging."""
    for _ in range(batches):
        engine.run([Item(prepared, engine.adapter(name))])


@pytest.fixture
def engine(checkpoints: Path) -> Engine:
    """An engine that merges what had two batches, with the adapters a, b and c."""
    engine = make_engine(checkpoints, "qwen2_vl", merged_bytes=1 << 30)
    for name, source in (("a", "dora"), ("b", "lora"), ("c", "dora")):
        engine.load_adapter(name, adapter_folder("qwen2_vl", source))
    return engine


def test_busiest_adapter_is_merged_in_steps(engine: Engine, checkpoints: Path) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    engine.merged = MergedCopies(engine.products, 1 << 30, 64, 2 * len(text))
    for name in "abc":
        engine.merged.add(engine.adapter(name))
    busy(engine, text, "a", 1)
    assert not engine.merge_step()
    busy(engine, text, "a", 2)
    busy(engine, text, "b", 4)
    expected = engine.run([Item(text, engine.adapter("b"))])
    order: list[list[str]] = []
    steps = 0
    while engine.merge_step():
        steps += 1
        order.append(engine.merged.names)
        # Meanwhile batches go on, as they did before.
        tokens_by_path(engine)
        vectors = engine.run([Item(text, engine.adapter("b"))])
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
        assert set(tokens_by_path(engine)) == {"merged" if order[-1] else "low_rank"}
    assert order[0] == []
    assert order[-1] == ["a", "b"]
    assert ["b"] in order
    assert steps > 20
    # The weights are in the base's dtype, and as many bytes as is said.
    copies = [engine.merged.choose(engine.adapter(name), 1, True) for name in "ab"]
    tensors = [tensor for copy in copies for tensor in (copy or {}).values()]
    assert sum(tensor.nbytes for tensor in tensors) == engine.merged.nbytes > 0
    assert {tensor.dtype for tensor in tensors} == {torch.float32}


def test_budget_is_kept_and_the_least_used_leaves(checkpoints: Path) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    folders = {name: adapter_folder("qwen2_vl", "dora") for name in "abc"}
    probe = make_engine(checkpoints, "qwen2_vl")
    probe.load_adapter("a", folders["a"])
    probe.merged.merge("a")
    engine = make_engine(checkpoints, "qwen2_vl")
    engine.merged = MergedCopies(engine.products, 2 * probe.merged.nbytes, 64, 1)
    for name, folder in folders.items():
        engine.load_adapter(name, folder)
    for name, batches in (("a", 2), ("b", 3), ("c", 1)):
        busy(engine, text, name, batches)
    while engine.merge_step():
        assert engine.merged.nbytes <= engine.merged.budget
    assert engine.merged.names == ["a", "b"]
    busy(engine, text, "c", 20)
    while engine.merge_step():
        assert engine.merged.nbytes <= engine.merged.budget
    assert engine.merged.names == ["b", "c"]


def test_nothing_is_merged_without_a_budget(checkpoints: Path) -> None:
    engine = make_engine(checkpoints, "qwen2_vl", merged_bytes=0)
    engine.load_adapter("a", adapter_folder("qwen2_vl", "dora"))
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    busy(engine, text, "a", 1 + 5000 // len(text))
    assert not engine.merge_step()


def test_embed_merges_between_its_batches(checkpoints: Path) -> None:
    engine = make_engine(checkpoints, "qwen2_vl", token_budget=2048)
    engine.load_adapter("a", adapter_folder("qwen2_vl", "dora"))
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    count = 1 + 12_000 // len(text)
    vectors = engine.embed([(text, "a")] * count)
    assert engine.merged.names == ["a"]
    counted = tokens_by_path(engine)
    assert counted["low_rank"] >= 4096
    assert counted["merged"] >= 4096
    np.testing.assert_allclose(vectors, np.broadcast_to(vectors[:1], vectors.shape), atol=1e-5)


def test_name_that_comes_again_with_other_bytes_never_gets_the_old_copy(
    engine: Engine, checkpoints: Path
) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    expected = {name: engine.embed([(text, name)]) for name in "ab"}
    assert abs(expected["a"] - expected["b"]).max() > 1e-3
    engine.merged.merge("a")
    old = engine.adapter("a")
    engine.load_adapter("a", adapter_folder("qwen2_vl", "lora"))
    assert engine.merged.names == []
    np.testing.assert_allclose(engine.embed([(text, "a")]), expected["b"], atol=1e-5)
    engine.merged.merge("a")
    np.testing.assert_allclose(engine.embed([(text, "a")]), expected["b"], atol=1e-5)
    # A batch that was made before still gets what it asked for.
    np.testing.assert_allclose(engine.run([Item(text, old)]), expected["a"], atol=1e-5)
    engine.unload_adapter("a")
    assert engine.merged.names == []
    assert engine.merged.nbytes == 0


def test_copy_is_given_up_if_its_adapter_goes_while_it_is_made(
    engine: Engine, checkpoints: Path
) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    busy(engine, text, "a", 1 + 5000 // len(text))
    expected = engine.run([Item(text, engine.adapter("b"))])
    assert engine.merge_step()
    assert engine.merge_step()
    engine.load_adapter("a", adapter_folder("qwen2_vl", "lora"))
    assert not engine.merge_step()
    assert engine.merged.nbytes == 0
    np.testing.assert_allclose(engine.run([Item(text, engine.adapter("a"))]), expected, atol=1e-5)


def test_memory_of_a_copy_is_freed_with_its_adapter(engine: Engine, checkpoints: Path) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    engine.merged.merge("a")
    engine.embed([(text, "a")])
    copy = engine.merged.choose(engine.adapter("a"), 1, True)
    assert isinstance(copy, MergedCopy)
    alive: list[Callable[[], object]] = [weakref.ref(copy), *map(weakref.ref, copy.values())]
    del copy
    engine.unload_adapter("a")
    gc.collect()
    assert [ref for ref in alive if ref() is not None] == []


def test_batch_that_does_not_fit_frees_the_least_used_copy(
    engine: Engine, checkpoints: Path
) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    for name in "ab":
        engine.merged.merge(name)
    busy(engine, text, "a", 3)
    busy(engine, text, "b", 1)
    before, budget = engine.merged.nbytes, engine.merged.budget
    assert engine.merged.free_one()
    assert engine.merged.names == ["a"]
    assert engine.merged.nbytes == engine.merged.budget < before
    busy(engine, text, "b", 1 + 5000 // len(text))
    # The copy of b is being made in the place of a's.
    assert engine.merge_step()
    assert engine.merged.names == []
    assert engine.merged.free_one()
    assert engine.merged.nbytes == engine.merged.budget == 0
    # What does not fit beside no copy at all is not the copies' fault.
    assert not engine.merged.free_one()
    assert engine.merged.budget == budget


def test_memory_of_a_copy_is_free_for_the_batch_that_failed_beside_it(
    engine: Engine, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    engine.merged.merge("a")
    copy = weakref.ref(engine.pack([Item(text, engine.adapter("a"))]).shares[0].copy_of_tokens)
    with monkeypatch.context() as patched, contextlib.suppress(torch.OutOfMemoryError):
        patched.setattr(engine.decoder, "run", mock.Mock(side_effect=torch.OutOfMemoryError))
        engine.embed([(text, "a")])
    assert engine.merged.free_one()
    assert copy() is None


def test_copy_that_does_not_fit_is_given_up(
    engine: Engine, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    engine.merged.merge("b")
    held = engine.merged.nbytes
    busy(engine, text, "a", 1 + 5000 // len(text))

    def fail(*args: Any, **options: Any) -> None:
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(torch, "empty_like", fail)
    assert not engine.merge_step()
    monkeypatch.undo()
    assert engine.merged.names == ["b"]
    assert engine.merged.budget == engine.merged.nbytes == held


def test_adapters_come_and_go_while_they_are_merged(checkpoints: Path, engine: Engine) -> None:
    """Every vector is that of the adapter that the batch was made with."""
    (text,) = prepare(checkpoints, "qwen2_vl", "text")
    # By what stays the same under another name.
    expected = {
        id(engine.adapter(name).exact): engine.run([Item(text, engine.adapter(name))])
        for name in "ab"
    }
    engine.merged = MergedCopies(engine.products, 1 << 30, least_rows=1, least_tokens=1)
    stop = threading.Event()
    known = [engine.adapter(name) for name in "ab"]
    flips = 0

    def flip() -> None:
        nonlocal flips
        while not stop.is_set():
            for adapter in known:
                # What loading does once it has read the files: the name "a" for one and the other.
                engine._adapters["a"] = dataclasses.replace(adapter, name="a")
                engine.merged.add(engine._adapters["a"])
                flips += 1
                stop.wait(0.05)

    thread = threading.Thread(target=flip)
    thread.start()
    tokens_by_path(engine)
    try:
        runs = 0
        while (runs := runs + 1) <= 100 or flips <= 5:
            adapter = engine.adapter("a")
            vectors = engine.run([Item(text, adapter)])
            np.testing.assert_allclose(vectors, expected[id(adapter.exact)], atol=1e-5)
            while engine.merge_step():
                pass
    finally:
        stop.set()
        thread.join()
    assert set(tokens_by_path(engine)) == {"low_rank", "merged"}
