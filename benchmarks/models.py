"""Models of any size with random weights, the adapters for them, and inputs to embed."""

import itertools
import json
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peft import LoraConfig
from safetensors.torch import save_file
from torch import Tensor, nn

from vlm2vec_registry.backbone import backbone_of
from vlm2vec_service.backbones.phi3_v.model import Phi3V
from vlm2vec_service.backbones.phi3_v.preprocess import CROP, token_count
from vlm2vec_service.backbones.qwen2_5_omni.model import Qwen2_5Omni
from vlm2vec_service.backbones.qwen2_5_vl.model import Qwen2_5VL
from vlm2vec_service.backbones.qwen2_vl.model import Qwen2VL
from vlm2vec_service.backbones.qwen3_vl.model import Qwen3VL
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.preprocess.prepared import Media, Prepared

TOKENIZER = Path(__file__).parent.parent / "tests/parity/data/tokenizers/qwen2_vl"
SPECIAL = {
    "bos_token_id": 2000, "eos_token_id": 2001, "vision_start_token_id": 2003,
    "vision_end_token_id": 2004, "vision_token_id": 2005, "image_token_id": 2006,
    "video_token_id": 2007,
}  # fmt: skip
"""The ids that the tokenizer gives its special tokens."""
IMAGE_CONFIG: dict[str, Any] = {
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def _qwen2_vl(
    hidden: int, layers: int, heads: int, mlp: int, vocab: int, embed: int, depth: int
) -> dict[str, Any]:
    """A Qwen2-VL with the real model's head sizes: 128 in the decoder, 80 in the vision tower."""
    return {
        "model_type": "qwen2_vl", "vocab_size": vocab, "hidden_size": hidden,
        "intermediate_size": mlp, "num_hidden_layers": layers, "num_attention_heads": heads,
        "num_key_value_heads": 2, "max_position_embeddings": 32768, "rms_norm_eps": 1e-6,
        "rope_theta": 1e6, "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "image_token_id": 5,
        "video_token_id": 6, "vision_start_token_id": 7, "use_sliding_window": False,
        "vision_config": {
            "depth": depth, "embed_dim": embed, "hidden_size": hidden, "num_heads": embed // 80,
            "mlp_ratio": 4, "in_channels": 3, "patch_size": 14, "spatial_merge_size": 2,
            "temporal_patch_size": 2, "hidden_act": "quick_gelu",
        },
    }  # fmt: skip


def _qwen2_5_vl(
    hidden: int, layers: int, heads: int, mlp: int, vocab: int, width: int, depth: int
) -> dict[str, Any]:
    """A Qwen2.5-VL with the real model's head sizes and windows; every eighth block sees all."""
    shape = _qwen2_vl(hidden, layers, heads, mlp, vocab, width, depth)
    return {
        **shape, "model_type": "qwen2_5_vl",
        "vision_config": {
            "depth": depth, "hidden_size": width, "out_hidden_size": hidden,
            "num_heads": width // 80, "intermediate_size": width * 171 // 64, "in_channels": 3,
            "patch_size": 14, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "hidden_act": "silu", "window_size": 112, "tokens_per_second": 2,
            "fullatt_block_indexes": [*range(7, depth, 8)] or [depth - 1],
        },
    }  # fmt: skip


def _qwen3_vl(
    hidden: int, layers: int, heads: int, mlp: int, vocab: int, width: int, depth: int
) -> dict[str, Any]:
    """A Qwen3-VL with the real model's head sizes: 128 in the decoder, of which half as many, or
    8, for keys; 64 or 72 in the vision tower, which shows three of its blocks to the decoder."""
    return {
        "model_type": "qwen3_vl", "tie_word_embeddings": True, "image_token_id": 5,
        "video_token_id": 6, "vision_start_token_id": 7, "vocab_size": vocab,
        "text_config": {
            "vocab_size": vocab, "hidden_size": hidden, "intermediate_size": mlp, "head_dim": 128,
            "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": min(8, heads // 2), "max_position_embeddings": 262_144,
            "rms_norm_eps": 1e-6, "rope_theta": 5e6, "hidden_act": "silu", "rope_scaling": {
                "mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default",
            },
        },
        "vision_config": {
            "depth": depth, "hidden_size": width, "out_hidden_size": hidden, "in_channels": 3,
            "num_heads": 16 if width > 256 else 4, "num_position_embeddings": 2304,
            "intermediate_size": {1024: 4096, 1152: 4304}.get(width, 4 * width),
            "patch_size": 16, "spatial_merge_size": 2, "temporal_patch_size": 2,
            "deepstack_visual_indexes": [depth // 4 - 1, depth // 2 - 1, 3 * depth // 4 - 1],
        },
    }  # fmt: skip


def _qwen2_5_omni(
    hidden: int, layers: int, heads: int, mlp: int, vocab: int, width: int, depth: int
) -> dict[str, Any]:
    """A thinker of Qwen2.5-Omni with the real model's head sizes: 64 in the audio tower, which is
    as wide and deep as the vision tower; every seventh head of the decoder is for keys, or two."""
    shape = _qwen2_5_vl(hidden, layers, heads, mlp, vocab, width, depth)
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
            "max_position_embeddings", "rms_norm_eps", "rope_theta", "vocab_size")  # fmt: skip
    return {
        "model_type": "qwen2_5_omni_thinker", "vocab_size": vocab, "tie_word_embeddings": False,
        "image_token_id": 5, "video_token_id": 6, "audio_token_id": 7,
        "text_config": {key: shape[key] for key in keys} | {
            "num_key_value_heads": max(2, heads // 7),
            "rope_scaling": {"rope_type": "default", "mrope_section": [16, 24, 24]},
        },
        "vision_config": shape["vision_config"],
        "audio_config": {
            "d_model": width, "encoder_layers": depth, "encoder_attention_heads": width // 64,
            "encoder_ffn_dim": 4 * width, "num_mel_bins": 128, "n_window": 100,
            "output_dim": hidden,
        },
    }  # fmt: skip


SIZES: dict[str, dict[str, Any]] = {
    "tiny": _qwen2_vl(256, 2, 2, 512, 2048, 160, 2),
    "small": _qwen2_vl(1024, 4, 8, 3072, 2048, 320, 6),
    "small-2.5": _qwen2_5_vl(1024, 4, 8, 3072, 2048, 320, 6),
    "small-3": _qwen3_vl(1024, 4, 8, 3072, 2048, 256, 8),
    "small-omni": _qwen2_5_omni(1024, 4, 8, 3072, 2048, 320, 6),
    "qwen2-vl-2b": _qwen2_vl(1536, 28, 12, 8960, 151_936, 1280, 32),
    "qwen2.5-vl-3b": _qwen2_5_vl(2048, 36, 16, 11_008, 151_936, 1280, 32),
    "qwen2.5-omni-3b": _qwen2_5_omni(2048, 36, 16, 11_008, 151_936, 1280, 32),
    "qwen2.5-omni-7b": _qwen2_5_omni(3584, 28, 28, 18_944, 152_064, 1280, 32),
    "qwen3-vl-2b": _qwen3_vl(2048, 28, 16, 6144, 151_936, 1024, 24),
    "qwen3-vl-8b": _qwen3_vl(4096, 36, 32, 12_288, 151_936, 1152, 27),
    "phi-3.5-v": {
        "model_type": "phi3_v", "vocab_size": 32_064, "hidden_size": 3072,
        "intermediate_size": 8192, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 32, "rms_norm_eps": 1e-5, "max_position_embeddings": 131_072,
        "original_max_position_embeddings": 4096, "rope_theta": 1e4, "pad_token_id": 0,
        "rope_scaling": {"type": "su", "short_factor": [1.0] * 48, "long_factor": [4.0] * 48},
        "embd_layer": {"use_hd_transform": True, "hd_transform_order": "sub_glb"},
        "img_processor": {},
    },
}  # fmt: skip
"""config.json by size; those that are called like a real model have its shapes."""
MODELS: dict[str, type[Backbone]] = {
    kind.name: kind for kind in (Qwen2VL, Qwen2_5VL, Qwen2_5Omni, Qwen3VL, Phi3V)
}


def shape_of(size: str) -> Backbone:
    """Builds the model of ``size`` on the meta device, float32, without weights."""
    config = SIZES[size]
    with torch.device("meta"):
        return MODELS[backbone_of(config)](config, IMAGE_CONFIG)


def random_backbone(size: str, device: torch.device, dtype: torch.dtype) -> Backbone:
    """The model of ``size`` with normal weights of variance 1 / fan-in, so that activations keep
    their scale."""
    backbone = shape_of(size)
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in list(backbone.named_parameters()):
        value = torch.empty(parameter.shape, device=device, dtype=dtype)
        if parameter.dim() == 1:
            value.fill_(0.0 if name.endswith("bias") else 1.0)
        else:
            fan_in = 1 if "embed_tokens" in name else parameter[0].numel()
            value.normal_(0, fan_in**-0.5, generator=generator)
        parent, _, leaf = name.rpartition(".")
        setattr(backbone.get_submodule(parent), leaf, nn.Parameter(value, requires_grad=False))
    return backbone


def write_checkpoint(folder: Path, size: str, backbone: Backbone | None = None) -> None:
    """Writes a checkpoint of ``size`` that our servers and vLLM load: the weights of ``backbone``,
    or random ones in bfloat16, and for Qwen2-VL the parity tests' tokenizer."""
    folder.mkdir(parents=True, exist_ok=True)
    backbone = backbone or random_backbone(size, torch.device("cpu"), torch.bfloat16)
    tensors = {name: parameter.cpu() for name, parameter in backbone.named_parameters()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config, image = SIZES[size], dict(IMAGE_CONFIG)
    if backbone.name == "qwen2_vl":
        config = {**config, **SPECIAL, "architectures": ["Qwen2VLForConditionalGeneration"]}
        image |= {
            "image_processor_type": "Qwen2VLImageProcessor", "processor_class": "Qwen2VLProcessor",
            "patch_size": 14, "merge_size": 2, "temporal_patch_size": 2,
            "min_pixels": 3136, "max_pixels": 200_704,
        }  # fmt: skip
        for file in TOKENIZER.iterdir():
            shutil.copy(file, folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(image))


def write_dora(folder: Path, backbone: Backbone, rank: int, seed: int) -> None:
    """Writes a DoRA adapter on every linear layer of the language model, as VLM2Vec-V2.0's."""
    tensors = {}
    for name, module in backbone.model.named_modules():
        if not isinstance(module, nn.Linear) or not name.startswith("layers."):
            continue
        weight = module.weight
        generator = torch.Generator(weight.device).manual_seed(seed + zlib.crc32(name.encode()))

        def draw(*shape: int, like: Tensor = weight, from_: torch.Generator = generator) -> Tensor:
            return torch.randn(*shape, generator=from_, device=like.device)

        out, in_ = weight.shape
        key = f"base_model.model.model.{name}"
        a, b = draw(rank, in_) * in_**-0.5, draw(out, rank) * 0.02
        tensors[f"{key}.lora_A.weight"], tensors[f"{key}.lora_B.weight"] = a, b
        norm = torch.addmm(weight.float(), b, a, alpha=2).norm(dim=1)
        tensors[f"{key}.lora_magnitude_vector"] = norm * (1 + 0.05 * draw(out))
    names = sorted({key.split(".")[-3] for key in tensors if key.endswith("lora_A.weight")})
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=names, use_dora=True, inference_mode=True
    ).to_dict()
    config["target_modules"] = names
    config["exclude_modules"] = r"(visual|model\.vision_embed_tokens)\..*"
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, default=lambda x: getattr(x, "value", None) or vars(x))
    (folder / "adapter_config.json").write_text(text)
    on_host = {name: tensor.cpu() for name, tensor in tensors.items()}
    save_file(on_host, folder / "adapter_model.safetensors")


def text_input(length: int, vocab: int, rng: np.random.Generator) -> Prepared:
    """Random token ids, sequential positions."""
    ids = rng.integers(8, vocab, length, dtype=np.int32)
    return Prepared(ids, np.broadcast_to(np.arange(length, dtype=np.int32), (3, length)))


def image_input(words: int, config: dict[str, Any], rng: np.random.Generator) -> Prepared:
    """An image of noise in front of ``words`` random tokens: of 336 pixels, or in a family with
    larger patches of 384."""
    if config["model_type"] == "phi3_v":
        tokens, placeholder, side = token_count((1, 1)), -1, CROP
    else:
        tokens, placeholder = 144, config["image_token_id"]
        side = 12 * 2 * config["vision_config"]["patch_size"]
    pixels = rng.integers(0, 256, (1, side, side, 3), dtype=np.uint8)
    return _in_front(Media.of("image", pixels, 0, tokens), placeholder, words, config, rng)


def audio_input(words: int, config: dict[str, Any], rng: np.random.Generator) -> Prepared:
    """Ten seconds of noise, as log-mel, in front of ``words`` random tokens."""
    log_mel = rng.normal(0, 0.5, (1000, config["audio_config"]["num_mel_bins"]))
    audio = Media.of("audio", log_mel.astype(np.float32), 0, 250)
    return _in_front(audio, config["audio_token_id"], words, config, rng)


def _in_front(
    media: Media, placeholder: int, words: int, config: dict[str, Any], rng: np.random.Generator
) -> Prepared:
    text = text_input(words, config["vocab_size"], rng)
    ids = np.concatenate([np.full(media.tokens, placeholder, np.int32), text.token_ids])
    positions = np.broadcast_to(np.arange(len(ids), dtype=np.int32), (3, len(ids)))
    return Prepared(ids, positions, (media,))


QUERY_TOKENS = 24
WORKLOADS = ("text", "image", "mixed", "query", "audio")
"""``text``: 8 to 512 tokens, log-uniform. ``image``: an image of 144 tokens (on Phi-3.5-V 313) and
20 tokens. ``mixed``: the two in turn. ``query``: texts of 24 tokens. ``audio``: an audio of 10 s,
which has 250 tokens, and 20 tokens, for a size that hears."""


def stream(name: str, size: str, seed: int = 0) -> Iterator[Prepared]:
    """Makes inputs of the workload ``name``, without end."""
    config = SIZES[size]
    rng = np.random.default_rng(seed)
    for index in itertools.count():
        if name == "image" or (name == "mixed" and index % 2):
            yield image_input(20, config, rng)
        elif name == "audio":
            yield audio_input(20, config, rng)
        elif name == "query":
            yield text_input(QUERY_TOKENS, config["vocab_size"], rng)
        else:
            length = int(np.exp(rng.uniform(np.log(8), np.log(512))))
            yield text_input(length, config["vocab_size"], rng)


def workload(name: str, size: str, count: int, seed: int = 0) -> list[Prepared]:
    """Makes ``count`` inputs of the workload ``name``, one of `WORKLOADS`."""
    return list(itertools.islice(stream(name, size, seed), count))


def batch_of(name: str, size: str, tokens: int, seed: int = 0) -> list[Prepared]:
    """Makes as many inputs of the workload ``name`` as fit into a batch of ``tokens``."""
    inputs: list[Prepared] = []
    for prepared in stream(name, size, seed):
        tokens -= len(prepared)
        if tokens < 0 and inputs:
            break
        inputs.append(prepared)
    return inputs
