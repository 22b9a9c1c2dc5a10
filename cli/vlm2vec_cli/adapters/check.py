"""The check that every adapter passes before it is published, by whichever command."""

from pathlib import Path


def check_on_base(folder: Path, base: Path) -> None:
    """Checks the tensors of the PEFT folder ``folder`` against the shapes of the checkpoint
    ``base``, whose weights are not read.

    Raises `AdapterError` or `CheckpointError` where a worker that loads the two would.
    """
    # These import torch, which takes seconds.
    from vlm2vec_service.engine.adapter import check_adapter
    from vlm2vec_service.engine.engine import build_backbone
    from vlm2vec_service.engine.linear import install
    from vlm2vec_service.engine.stage import Rows, Stage

    backbone = build_backbone(base)
    check_adapter(folder, backbone, install(backbone, Rows(Stage())))
