"""Adapters that PEFT itself makes, to compare the engine's with."""

from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from vlm2vec_service.engine.checkpoint import load_weights
from vlm2vec_service.engine.engine import build_backbone


def plain_backbone(base: Path) -> Any:
    """Loads the checkpoint ``base`` in float32, without an engine around it."""
    backbone = build_backbone(base)
    load_weights(backbone, base, backbone.rename, torch.device("cpu"), torch.float32)
    return backbone


def make_adapter(base: Path, folder: Path, seed: int = 0, **options: Any) -> Any:
    """Saves a PEFT adapter with random weights to ``folder``; returns PEFT's merged model."""
    torch.manual_seed(seed)
    config = LoraConfig(**{"r": 4, "lora_alpha": 12, **options})
    wrapped = get_peft_model(plain_backbone(base), config)
    randomise(wrapped)
    wrapped.save_pretrained(str(folder))
    return wrapped.merge_and_unload()


def randomise(wrapped: Any) -> None:
    """Gives the adapter of PEFT's model ``wrapped`` weights that change every layer it is on."""
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
        elif "magnitude" in name:
            parameter.data *= 1 + 0.2 * torch.randn(parameter.shape)
