"""The alternative: ``transformers``' models with a PEFT adapter merged, padded batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import (
    Phi3Config,
    Phi3Model,
    Qwen2_5_VLConfig,
    Qwen2_5_VLModel,
    Qwen2VLConfig,
    Qwen2VLModel,
    Qwen3VLConfig,
    Qwen3VLModel,
)

from vlm2vec_service.backbones.phi3_v.model import TEXT_KEYS
from vlm2vec_service.backbones.qwen_vl.model import QwenVL
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.preprocess.prepared import Prepared


class Padded:
    """A backbone as the library runs it, on the weights of one of ours.

    The library has no Phi-3.5-V: of that it runs the decoder, so inputs may be text only.
    """

    def __init__(self, backbone: Backbone, config: dict[str, Any], adapter: Path | None) -> None:
        self.backbone = backbone
        weight = backbone.model.embed_tokens.weight
        self.device, self.dtype = weight.device, weight.dtype
        make, prefix = (_phi3, "") if backbone.name == "phi3_v" else (_qwen_vl, "language_model.")
        with self.device:
            model = make(config)
        # Frequencies of rotary embeddings, which no checkpoint holds, stay in float32.
        frequencies = dict(model.named_buffers())
        model.to(self.dtype)
        for name, value in frequencies.items():
            parent, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(parent), leaf, value)
        wanted = model.state_dict().keys()
        state = {
            prefix + key.removeprefix("model.") if key.startswith("model.") else key: value
            for key, value in backbone.state_dict().items()
        }
        model.load_state_dict({key: state[key] for key in wanted}, assign=False)
        self.model: nn.Module = model.eval()
        if adapter is not None:
            self.model = merge(model, adapter, prefix)

    def embed(self, inputs: Sequence[Prepared], batch_size: int) -> Tensor:
        """Vectors ``(len(inputs), hidden)``, float32 on the host."""
        return torch.cat(
            [
                self._batch(inputs[start : start + batch_size])
                for start in range(0, len(inputs), batch_size)
            ]
        )

    @torch.inference_mode()
    def _batch(self, inputs: Sequence[Prepared]) -> Tensor:
        longest = max(map(len, inputs))
        ids = torch.zeros(len(inputs), longest, dtype=torch.int64)
        mask = torch.zeros_like(ids)
        for row, prepared in enumerate(inputs):
            ids[row, -len(prepared) :] = torch.from_numpy(prepared.token_ids)
            mask[row, -len(prepared) :] = 1
        options: dict[str, Any] = {}
        media = [item for prepared in inputs for item in prepared.media]
        if media:
            options["pixel_values"] = self._pixels(media)
            assert isinstance(self.backbone, QwenVL)
            grids = [self.backbone.grid(item) for item in media]
            options["image_grid_thw"] = torch.tensor(grids, device=self.device)
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        if isinstance(self.backbone, QwenVL):
            positions = positions.expand(3, -1, -1)
        states = self.model(
            input_ids=ids.to(self.device),
            # Without padding there is no mask to build or to read.
            attention_mask=None if mask.all() else mask.to(self.device),
            position_ids=positions.to(self.device),
            use_cache=False,
            **options,
        ).last_hidden_state
        return F.normalize(states[:, -1].float(), dim=1).cpu()

    def _pixels(self, media: Sequence[Any]) -> Tensor:
        # Cut once and kept: a real caller's processor does this before, on other cores.
        assert isinstance(self.backbone, QwenVL)
        for item in media:
            if id(item) not in _CUT:
                _CUT[id(item)] = self.backbone.cut(np.stack([item.values])).to(self.dtype)
        return torch.cat([_CUT[id(item)] for item in media])


_CUT: dict[int, Tensor] = {}
LIBRARY: dict[str, tuple[Any, Any]] = {
    "qwen2_vl": (Qwen2VLConfig, Qwen2VLModel),
    "qwen2_5_vl": (Qwen2_5_VLConfig, Qwen2_5_VLModel),
    "qwen3_vl": (Qwen3VLConfig, Qwen3VLModel),
}
"""The library's configuration and model of each family."""


def _qwen_vl(config: dict[str, Any]) -> Any:
    read, make = LIBRARY[config["model_type"]]
    parsed: Any = read(**config)
    parsed._attn_implementation = "sdpa"
    return make(parsed)


def _phi3(config: dict[str, Any]) -> Any:
    original = {"original_max_position_embeddings": config["original_max_position_embeddings"]}
    known = (*TEXT_KEYS, *original, "rope_theta", "max_position_embeddings")
    values: dict[str, Any] = {key: config[key] for key in known if key in config}
    parsed: Any = Phi3Config(**values | {"rope_scaling": {**config["rope_scaling"], **original}})
    parsed._attn_implementation = "sdpa"
    return Phi3Model(parsed)


def merge(model: nn.Module, adapter: Path, prefix: str) -> nn.Module:
    """``model``, whose decoder's names start with ``prefix``, with the PEFT adapter in its
    weights."""
    wrapped = get_peft_model(model, LoraConfig.from_pretrained(str(adapter)))
    # The names in the file are the original checkpoint's.
    tensors = {
        key.replace("model.model.model.", f"model.model.{prefix}"): value
        for key, value in load_file(adapter / "adapter_model.safetensors").items()
    }
    result: Any = set_peft_model_state_dict(wrapped, tensors)
    missing = [key for key in result.missing_keys if "lora_" in key]
    if missing or result.unexpected_keys:
        raise ValueError(f"{adapter}: missing {missing}, unexpected {result.unexpected_keys}")
    merged: nn.Module = wrapped.merge_and_unload()
    return merged
