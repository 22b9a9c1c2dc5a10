"""Puts a PEFT adapter to train into the service's backbone, and saves it as the engine loads it."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.hub import named
from vlm2vec_registry.space import NOTHING
from vlm2vec_service.backbones import FAMILIES, check_embedding
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.checkpoint import load_weights
from vlm2vec_service.engine.engine import DTYPES, build_backbone, find_device
from vlm2vec_training.embedder import Embedder
from vlm2vec_training.errors import TrainingError
from vlm2vec_training.settings import AdapterSettings


@dataclass(frozen=True)
class TrainableModel:
    """A checkpoint with a new adapter, of which only the adapter is trained.

    ``peft`` is PEFT's model around ``backbone``, ``embedder`` computes vectors with gradients, and
    ``embedding`` is what the adapter's ``embedding.json`` will say.
    """

    backbone: Backbone
    peft: Any
    embedder: Embedder
    embedding: EmbeddingConfig


def load_model(
    base: Path,
    settings: AdapterSettings,
    device: str,
    dtype: str,
    checkpointing: bool,
    form: EmbeddingConfig = NOTHING,
) -> TrainableModel:
    """Loads the checkpoint ``base`` and adds a new adapter, which wants what ``form`` says.

    With ``checkpointing``, activations are computed twice instead of kept. Raises `TrainingError`
    for settings that are no good, and `CheckpointError`.
    """
    if dtype not in DTYPES:
        raise TrainingError(f"--dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    if settings.adapter not in ("lora", "dora"):
        raise TrainingError(f"--adapter {settings.adapter!r} is neither lora nor dora")
    backbone = build_backbone(base)
    embedding = embedding_of(base, backbone, settings, form)
    load_weights(backbone, base, backbone.rename, find_device(device), DTYPES[dtype])
    peft = add_adapter(backbone, settings)
    if checkpointing:
        checkpoint_layers(backbone)
    autocast = torch.bfloat16 if dtype == "bfloat16" else None
    return TrainableModel(backbone, peft, Embedder(backbone, autocast), embedding)


def add_adapter(backbone: Backbone, settings: AdapterSettings) -> Any:
    """Puts float32 adapter layers into ``backbone`` and returns PEFT's model around it.

    Raises `TrainingError` if no layer has one of the names.
    """
    names = [name.strip() for name in settings.targets.split(",") if name.strip()]
    names = names or list(FAMILIES[backbone.name].targets)
    layers = [name for name, module in backbone.named_modules() if isinstance(module, nn.Linear)]
    ends = {name.rpartition(".")[2] for name in layers}
    found = [name for name in names if name in ends]
    if not found:
        raise TrainingError(
            f"--targets {','.join(names)}: no linear layer has such a name; "
            f"there are {', '.join(sorted(ends))}"
        )
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.adapter == "dora",
        target_modules=found,
    )
    return get_peft_model(backbone, config)


def embedding_of(
    base: Path, backbone: Backbone, settings: AdapterSettings, form: EmbeddingConfig
) -> EmbeddingConfig:
    """Makes the adapter's ``embedding.json`` of ``form`` and ``settings``.

    Raises `TrainingError` for settings of pictures that ``backbone`` does not have, and
    `AdapterError` for those in ``form``.
    """
    check_embedding(backbone.name, form, "--preset")
    image = dict(form.image)
    known = FAMILIES[backbone.name].image_settings
    for item in filter(None, settings.image.split(",")):
        name, _, value = (part.strip() for part in item.partition("="))
        if name not in known:
            raise TrainingError(
                f"--image: {name} is no setting of {backbone.name}; "
                f"there are {', '.join(sorted(known))}"
            )
        if not (value.isdecimal() and int(value)):
            raise TrainingError(f"--image: {item!r} is not KEY=NUMBER, a positive whole number")
        image[name] = int(value)
    name, revision = named(base)
    return replace(
        form, backbone=backbone.name, base_model=name, base_revision=revision, image=image
    )


def checkpoint_layers(backbone: Backbone) -> None:
    """Makes the layers of both towers compute their activations again instead of keeping them."""
    for module in backbone.modules():
        enable = getattr(module, "gradient_checkpointing_enable", None)
        if enable is not None:
            enable({"use_reentrant": False})


def save_adapter(peft: Any, embedding: EmbeddingConfig, folder: Path) -> None:
    """Writes the adapter of PEFT's model ``peft`` to ``folder``, with its ``embedding.json``; who
    may read the one may read the other."""
    peft.save_pretrained(folder)
    # PEFT's model card is a form that nobody filled in.
    (folder / "README.md").unlink(missing_ok=True)
    (folder / "embedding.json").write_text(embedding.to_json())
    # Safetensors are written for their owner alone, who need not be the server's user.
    shutil.copymode(folder / "embedding.json", folder / "adapter_model.safetensors")
