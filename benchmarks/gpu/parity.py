"""The golden vectors of the model authors' own code, on the device and by every path."""

import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.gpu.rows import Options, Row
from tests.conftest import ARCHITECTURES, CASES, DATA
from tests.parity import backbone_cases, make_backbones, make_checkpoints
from tests.parity.test_parity import prepared_cases
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.engine import Engine
from vlm2vec_service.preprocess.prepared import Prepared
from vlm2vec_service.settings import EngineSettings

LIMITS = {"float32": 0.9999, "bfloat16": 0.995}
STABLE = 0.9996
"""Cosine of a case whose base weights alone were rounded to bfloat16, from which on it can be
judged: the DoRA adapters add five times the weights' norm, and some cases leave by rounding."""
LATER = ("qwen2_5_omni", "qwen2_5_vl", "qwen3_vl")
ONE_BY_ONE = 10
"""Inputs of a family, about, that are also run alone: each of their sizes is recorded, by every
path, which takes a GPU longer than all else here."""
FEW = 5
"""The cases at the smallest size, which has but one of the `LATER` families: texts, and a picture
behind them."""


@dataclass(frozen=True)
class Family:
    """A tiny checkpoint of a family, its adapters' folder, and its inputs with golden vectors by
    ``ADAPTER/ID``."""

    base: Path
    adapters: Path
    ids: list[str]
    prepared: list[Prepared]
    golden: dict[str, npt.NDArray[np.float32]]

    @property
    def name(self) -> str:
        """The backbone's name."""
        return self.base.name


def families(scratch: Path, few: bool) -> Iterator[Family]:
    """Writes the checkpoints to ``scratch``, and prepares their inputs, all or ``few``."""
    most = FEW if few else None
    make_checkpoints.write_all(scratch)
    with np.load(DATA / "golden.npz") as file:
        golden = dict(file)
    for name in ARCHITECTURES:
        prepared = prepared_cases(scratch, name)[:most]
        yield _family(scratch / name, DATA, prepared, CASES[name], golden)
    golden = backbone_cases.goldens()
    for name in LATER[:1] if few else LATER:
        make_backbones.write_all(scratch, name)
        preprocessor = load_preprocessor(scratch / name)
        cases = backbone_cases.CASES[name][:most]
        prepared = [backbone_cases.prepare(preprocessor, case) for case in cases]
        yield _family(scratch / name, backbone_cases.DATA, prepared, cases, golden)


def _family(
    base: Path,
    data: Path,
    prepared: list[Prepared],
    cases: list[dict[str, Any]],
    golden: dict[str, npt.NDArray[Any]],
) -> Family:
    """Joins the ``prepared`` inputs, of the first ``cases``, with the golden vectors of theirs."""
    ids = [case["id"] for case in cases[: len(prepared)]]
    start = f"{base.name}/"
    own = {key.removeprefix(start): golden[key] for key in golden if key.startswith(start)}
    return Family(base, data / "adapters" / base.name, ids, prepared, own)


def run(options: Options) -> Iterator[Row]:
    """Yields the lowest cosine of each backbone, dtype, adapter and path."""
    # The module of the tests takes one thread, since many of them run side by side.
    torch.set_num_threads(os.cpu_count() or 1)
    with tempfile.TemporaryDirectory() as scratch:
        for family in families(Path(scratch), options.size == "tiny"):
            yield from _rows(family, options)


def _rows(family: Family, options: Options) -> Iterator[Row]:
    beside = _rounded(family) if options.dtype == "bfloat16" else {}
    for dtype in dict.fromkeys(("float32", options.dtype)):
        limit = LIMITS[dtype]
        engine = _engine(family, dtype, options.device)
        _load(engine, family)
        for adapter, path in (
            (None, "base"),
            ("lora", "low-rank"), ("dora", "low-rank"),
            ("lora", "merged"), ("dora", "merged"),
        ):  # fmt: skip
            if adapter is not None and path == "merged":
                engine.merged.merge(adapter)
            pairs = [(item, adapter) for item in family.prepared]
            each = [_cosines(engine.embed(pairs), family, adapter, range(len(pairs)))]
            if engine.graphs is not None:
                # A small batch is recorded the second time, and replayed from then on.
                alone = range(0, len(pairs), math.ceil(len(pairs) / ONE_BY_ONE))
                each += [
                    _cosines(
                        np.concatenate([engine.embed([pairs[i]]) for i in alone]),
                        family, adapter, alone,
                    )
                    for _ in range(3)
                ]  # fmt: skip
            found: dict[str, float] = {}
            for cosines in each:
                found |= {key: min(found.get(key, 1.0), value) for key, value in cosines.items()}
            if adapter == "dora" and dtype == "bfloat16":
                found = {key: found[key] for key in found if beside[key] > STABLE}
            lowest = min(found.values())
            name = f"{family.name} {dtype} {adapter or 'no adapter'} {path}"
            note = f"above {limit}, {len(found)} inputs"
            yield Row("parity", name, lowest, "cosine", note, lowest > limit)


def _rounded(family: Family) -> dict[str, float]:
    """Computes the cosines with DoRA in float32, of base weights that are rounded to bfloat16."""
    engine = _engine(family, "float32", "cpu")
    for parameter in engine.backbone.parameters():
        parameter.data = parameter.data.bfloat16().float()
    _load(engine, family)
    vectors = engine.embed([(item, "dora") for item in family.prepared])
    return _cosines(vectors, family, "dora", range(len(vectors)))


def _cosines(
    vectors: npt.NDArray[np.float32], family: Family, adapter: str | None, cases: Sequence[int]
) -> dict[str, float]:
    """Compares ``vectors``, of the ``cases`` in their order, with the golden ones."""
    keys = [f"{adapter or 'base'}/{family.ids[case]}" for case in cases]
    return {
        key: float(vector @ family.golden[key]) for key, vector in zip(keys, vectors, strict=True)
    }


def _engine(family: Family, dtype: str, device: str) -> Engine:
    settings = EngineSettings(
        device=device, dtype=dtype, token_budget=100_000, vision_cache_bytes=0, merged_bytes=0
    )
    return Engine.load(family.base, settings)


def _load(engine: Engine, family: Family) -> None:
    for name in ("lora", "dora"):
        engine.load_adapter(name, family.adapters / name)
