"""Qwen2-VL, made of the modules of ``transformers``."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLTextModel,
)

from vlm2vec_service.backbones.qwen_vl.model import Grid, QwenVL
from vlm2vec_service.engine.tower import BlockNames, RunBlocks


class Qwen2VL(QwenVL):
    """The backbone of Qwen2-VL."""

    name = "qwen2_vl"

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        super().__init__(
            Qwen2VLConfig(**config),
            Qwen2VLTextModel,
            Qwen2VisionTransformerPretrainedModel,
            image_config,
        )
        names = BlockNames(
            blocks="visual.blocks", heads=self.vision.num_heads,
            attention_norm="norm1", qkv=("attn.qkv",), output="attn.proj",
            mlp_norm="norm2", up=("mlp.fc1",), activation="mlp.act", down="mlp.fc2",
        )  # fmt: skip
        self.towers = (names,)

    def features(
        self, hidden: Tensor, grids: Sequence[Grid], rotary: tuple[Tensor, Tensor], run: RunBlocks
    ) -> Tensor:
        """Runs all blocks, and joins each four patches to a token."""
        merged: Tensor = self.visual.merger(run(hidden, self.frames(grids, hidden.device), rotary))
        return merged
