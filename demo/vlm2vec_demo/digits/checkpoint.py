"""Makes the checkpoint folder of the tiny Qwen2-VL, with its tokenizer."""

import json
import random
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from torch import nn

from vlm2vec_demo.digits.words import corpus
from vlm2vec_demo.digits.world import SIDE, draw_scene
from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.engine import build_backbone

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>",
    "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""The pattern by which Qwen2's tokenizer cuts text, before its byte pairs (``tokenizer.json``)."""
VOCABULARY = 640
PREPROCESSOR = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2VLProcessor",
    "min_pixels": SIDE * SIDE,
    "max_pixels": SIDE * SIDE,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}


def write_settings(folder: Path) -> None:
    """Writes everything of the checkpoint but its weights to ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer()
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, values in (
        ("config.json", config(tokenizer)),
        ("preprocessor_config.json", PREPROCESSOR),
        (
            "tokenizer_config.json",
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "eos_token": SPECIAL[0],
                "pad_token": SPECIAL[0],
            },
        ),
    ):
        (folder / name).write_text(json.dumps(values, indent=2) + "\n")


def train_tokenizer() -> Tokenizer:
    """Trains byte pairs on sentences about scenes, which are first cut by Qwen2's rules."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    rng = random.Random(0)
    scenes = [draw_scene(rng, rng.choice((1, 2, 3))) for _ in range(4000)]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        min_frequency=2,
    )
    tokenizer.train_from_iterator(corpus(rng, scenes), trainer)
    return tokenizer


def config(tokenizer: Tokenizer) -> dict[str, Any]:
    """Makes the contents of ``config.json``: Qwen2-VL's, with everything small."""
    token = {name: tokenizer.token_to_id(name) for name in SPECIAL}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": tokenizer.get_vocab_size(),
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "hidden_act": "silu",
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10000.0,
        "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
        "attention_dropout": 0.0,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": token["<|endoftext|>"],
        "eos_token_id": token["<|endoftext|>"],
        "pad_token_id": token["<|endoftext|>"],
        "image_token_id": token["<|image_pad|>"],
        "video_token_id": token["<|video_pad|>"],
        "vision_start_token_id": token["<|vision_start|>"],
        "vision_end_token_id": token["<|vision_end|>"],
        "vision_config": {
            "model_type": "qwen2_vl",
            "depth": 3,
            "embed_dim": 128,
            "hidden_size": 192,
            "num_heads": 4,
            "mlp_ratio": 4,
            "in_channels": 3,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
        },
    }


def random_backbone(folder: Path, seed: int) -> Backbone:
    """Builds the model that ``folder`` describes, float32 and with random weights, ready to train.

    The weights are such that matrices keep the size of their input, and those that end a residual
    branch half of it.
    """
    backbone = build_backbone(folder).to_empty(device="cpu")
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in backbone.named_parameters():
        with torch.no_grad():
            if "embed_tokens" in name:
                parameter.normal_(0, 0.3, generator=generator)
            elif parameter.ndim > 1:
                parameter.normal_(0, parameter[0].numel() ** -0.5, generator=generator)
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            if name.endswith(("o_proj.weight", "down_proj.weight", "proj.weight", "fc2.weight")):
                parameter.mul_(1.0 if "patch_embed" in name else 0.5)
    return backbone


def save_weights(backbone: nn.Module, folder: Path) -> None:
    """Writes the weights of ``backbone`` to ``model.safetensors`` in ``folder``, in bfloat16."""
    tensors = {
        name: tensor.to(torch.bfloat16).contiguous()
        for name, tensor in backbone.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
