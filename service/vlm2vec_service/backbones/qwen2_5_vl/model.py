"""Qwen2.5-VL, made of the modules of ``transformers``."""

from typing import Any

from transformers import Qwen2_5_VLConfig
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import (
    Qwen2_5_VisionTransformerPretrainedModel,
    Qwen2_5_VLTextModel,
)

from vlm2vec_service.backbones.qwen_vl.windows import WindowedQwenVL


class Qwen2_5VL(WindowedQwenVL):
    """The backbone of Qwen2.5-VL."""

    name = "qwen2_5_vl"

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        super().__init__(
            Qwen2_5_VLConfig(**config),
            Qwen2_5_VLTextModel,
            Qwen2_5_VisionTransformerPretrainedModel,
            image_config,
        )
        self.towers = (self.blocks_named("attn.qkv"),)
