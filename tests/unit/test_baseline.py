"""The benchmark's alternative computes the same vectors: otherwise its times would mean nothing."""

from pathlib import Path

import numpy as np
import torch

from benchmarks.baseline import Padded
from benchmarks.models import SIZES, random_backbone, workload, write_dora
from vlm2vec_service.engine import Engine
from vlm2vec_service.settings import EngineSettings


def test_transformers_with_a_merged_dora_agrees(tmp_path: Path) -> None:
    backbone = random_backbone("tiny", torch.device("cpu"), torch.float32)
    write_dora(tmp_path, backbone, rank=8, seed=0)
    inputs = workload("mixed", "tiny", 6)
    theirs = Padded(backbone, SIZES["tiny"], tmp_path).embed(inputs, batch_size=4).numpy()
    engine = Engine(backbone, EngineSettings())
    engine.load_adapter("dora", tmp_path)
    ours = engine.embed([(item, "dora") for item in inputs])
    assert min((ours * theirs).sum(axis=1)) > 0.9999
    plain = engine.embed([(item, None) for item in inputs])
    assert np.abs(ours - plain).max() > 1e-3
