"""Llama as the language model, and one linear layer from a pixel to a token."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel

from vlm2vec_service.engine.attention import PACKED
from vlm2vec_service.engine.backbone import Backbone, inverse_frequencies
from vlm2vec_service.engine.tower import RunBlocks
from vlm2vec_service.preprocess.prepared import Media


class Toy(Backbone):
    name = "toy"
    media_prefixes = ("vision.",)

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        super().__init__()
        llama = LlamaConfig(**config)
        llama._attn_implementation = PACKED
        self.model = LlamaModel(llama)
        del self.model.rotary_emb
        self.vision = nn.ModuleDict({"project": nn.Linear(3, config["hidden_size"])})
        self.inert = {}
        self.head_dim: int = config["hidden_size"] // config["num_attention_heads"]
        self.mean: float = image_config["image_mean"]

    def rename(self, name: str) -> str | None:
        return name

    def known_as(self, name: str) -> Sequence[str]:
        return (name,)

    def patches(self, media: Media) -> int:
        return media.tokens

    def encode(self, media: Sequence[Media], runs: Sequence[RunBlocks] = ()) -> list[Tensor]:
        project: Any = self.vision["project"]
        pixels = torch.cat([torch.tensor(item.values).flatten(0, 2) for item in media])
        rescaled = (pixels / 255 - self.mean).to(project.weight)
        return list(project(rescaled).split([item.tokens for item in media]))

    def rotary(self, positions: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        frequencies = inverse_frequencies(10_000.0, self.head_dim, positions.device)
        angles = (positions[0, :, None] * frequencies).repeat(1, 2)
        return angles.cos(), angles.sin()
