"""Batches that are replayed get the vectors of those that are not, in every family."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest

from tests.conftest import ARCHITECTURES, CASES, DATA
from tests.parity import backbone_cases, make_backbones
from tests.parity.test_parity import prepared_cases
from tests.unit.recorded import graphs_on_a_cpu
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine, graphs
from vlm2vec_service.engine.graphs import DecoderGraphs
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

FAMILIES = {
    "qwen2_vl": ("text", "text-unicode", "image-tiny", "image-portrait"),
    "phi3_v": ("text", "text-newline", "text-unicode", "text"),
    "qwen2_5_vl": ("text", "text-unicode", "image-tiny", "image-low"),
    "qwen2_5_omni": ("text", "text-spaces", "image-tiny", "audio-shortest"),
    "qwen3_vl": ("text-none", "text-empty", "image-tiny", "image-ribbon"),
}
"""The cases of each family that its graphs are recorded and replayed with."""
Family = tuple[Engine, list[Prepared]]
"""An engine with two adapters, and inputs."""


@pytest.fixture(scope="module", autouse=True)
def on_cpu() -> Iterator[None]:
    """One size of graphs for all batches here."""
    with graphs_on_a_cpu(), mock.patch.multiple(graphs, TOKENS=(192,), LENGTHS=(128,)):
        yield


@pytest.fixture(scope="module", params=FAMILIES)
def family(
    request: pytest.FixtureRequest, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory
) -> Family:
    """Loads a family, with the adapters of its goldens."""
    name, wanted = request.param, FAMILIES[request.param]
    if name in ARCHITECTURES:
        base, data = checkpoints / name, DATA
        found = zip(CASES[name], prepared_cases(checkpoints, name), strict=False)
        inputs = {case["id"]: prepared for case, prepared in found}
    else:
        base, data = tmp_path_factory.mktemp("base") / name, backbone_cases.DATA
        make_backbones.write_all(base.parent, name)
        preprocessor = load_preprocessor(base)
        cases = [case for case in backbone_cases.CASES[name] if case["id"] in wanted]
        inputs = {case["id"]: backbone_cases.prepare(preprocessor, case) for case in cases}
    engine = Engine.load(base, EngineSettings(dtype="float32", merged_bytes=0))
    for adapter in ("lora", "dora"):
        engine.load_adapter(adapter, data / "adapters" / name / adapter)
    return engine, [inputs[id] for id in wanted]


Pair = tuple[int, str | None]
"""The index of an input, and the name of its adapter."""


def run(
    engine: Engine, inputs: Sequence[Prepared], pairs: Sequence[Pair], normalize: bool | None = None
) -> npt.NDArray[np.float32]:
    return engine.run([
        Item(inputs[i], engine.adapter(name) if name else None, normalize) for i, name in pairs
    ])  # fmt: skip


def check(family: Family, *batches: Sequence[Pair], normalize: bool | None = None) -> None:
    """Runs ``batches`` until one graph replays them all, and compares them with what they are
    without it."""
    engine, inputs = family
    engine.graphs = None
    expected = [run(engine, inputs, pairs, normalize) for pairs in batches]
    engine.graphs = DecoderGraphs(engine.backbone, engine.decoder)
    for _ in range(3):
        for pairs, vectors in zip(batches, expected, strict=True):
            found = run(engine, inputs, pairs, normalize)
            np.testing.assert_allclose(found, vectors, rtol=0, atol=1e-4 * np.abs(vectors).max())
    assert len(engine.graphs._graphs) == 1


def test_texts(family: Family) -> None:
    check(family, [(0, None), (1, None), (0, None)], [(1, None), (0, None), (1, None), (1, None)])


def test_media_and_adapters_that_change_places(family: Family) -> None:
    check(
        family,
        [(2, "lora"), (1, None), (3, "dora")],
        [(1, "dora"), (2, None), (0, "lora"), (3, "lora")],
    )


def test_vectors_of_any_length(family: Family) -> None:
    check(family, [(0, None), (3, "dora")], [(2, "dora"), (1, None)], normalize=False)


def test_a_merged_copy(family: Family) -> None:
    engine, _ = family
    engine.merged.merge("dora")
    check(family, [(0, "dora"), (2, "dora")], [(3, "dora"), (1, "dora")])
    engine.merged.drop("dora")
    assert engine.graphs is not None
    assert not engine.graphs._graphs


def test_graphs_with_media_share_the_memory_of_what_enters_them(family: Family) -> None:
    engine, inputs = family
    if not inputs[2].media:
        pytest.skip("no media here")
    engine.graphs = DecoderGraphs(engine.backbone, engine.decoder)
    for pairs in ([(2, None)], [(2, None), (0, None)]):
        for _ in range(2):
            run(engine, inputs, pairs)
    one, other = (graph.entering for graph in engine.graphs._graphs.values())
    assert one is not None
    assert other is not None
    assert one.data_ptr() == other.data_ptr()
