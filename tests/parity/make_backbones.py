"""Write the tiny parity checkpoints of Qwen3-VL and Qwen2.5-VL, the same bytes on every machine.

    python -m tests.parity.make_backbones OUT   # OUT/qwen3_vl, OUT/qwen3_vl_eot, OUT/qwen2_5_vl

The method is that of `make_checkpoints`, with other gains: attention is sharp enough for a wrong
position or a wrong order to show in the pooled vector. ``qwen3_vl`` has the nested configuration of
`Qwen/Qwen3-VL-Embedding-8B` and four shards; ``qwen3_vl_eot`` has the same tensors in one file, and
a tokenizer that appends ``<|endoftext|>`` to every text; ``qwen2_5_vl`` has the flat configuration,
old names and two shards of `Qwen/Qwen2.5-VL-3B-Instruct`. SHA-256 sums are in
``data/backbones/checkpoints.json``.
"""

import hashlib
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

DATA = Path(__file__).parent / "data" / "backbones"

Config = dict[str, Any]
Shapes = Iterator[tuple[str, tuple[int, ...]]]

TOKENS = {
    "image_token_id": 2006,
    "video_token_id": 2007,
    "vision_start_token_id": 2003,
    "vision_end_token_id": 2004,
}

QWEN3_VL = {
    "architectures": ["Qwen3VLForConditionalGeneration"],
    "model_type": "qwen3_vl",
    **TOKENS,
    "tie_word_embeddings": False,
    "text_config": {
        "model_type": "qwen3_vl_text",
        "vocab_size": 2048,
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        # Not hidden_size / num_attention_heads, as in the 4B model (2560, 32 heads of 128).
        "head_dim": 48,
        "hidden_act": "silu",
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": 2000,
        "eos_token_id": 2001,
        "initializer_range": 0.02,
        "max_position_embeddings": 16384,
        "rms_norm_eps": 1e-06,
        "rope_scaling": {
            "mrope_interleaved": True,
            "mrope_section": [10, 7, 7],
            "rope_type": "default",
        },
        "rope_theta": 5000000,
        "tie_word_embeddings": False,
        "dtype": "float32",
        "use_cache": True,
    },
    "vision_config": {
        "model_type": "qwen3_vl",
        "depth": 5,
        "deepstack_visual_indexes": [1, 2, 3],
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_size": 64,
        "intermediate_size": 160,
        "num_heads": 2,
        "num_position_embeddings": 2304,
        "in_channels": 3,
        "initializer_range": 0.02,
        "out_hidden_size": 128,
        "patch_size": 16,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
    },
}

QWEN2_5_VL = {
    "architectures": ["Qwen2_5_VLForConditionalGeneration"],
    "model_type": "qwen2_5_vl",
    "vocab_size": 2048,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "hidden_act": "silu",
    "max_position_embeddings": 16384,
    "max_window_layers": 3,
    "use_sliding_window": False,
    "sliding_window": 32768,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "rope_scaling": {"type": "mrope", "mrope_section": [4, 6, 6]},
    "attention_dropout": 0.0,
    "initializer_range": 0.02,
    "tie_word_embeddings": True,
    "bos_token_id": 2000,
    "eos_token_id": 2001,
    "vision_token_id": 2005,
    **TOKENS,
    "use_cache": True,
    "torch_dtype": "float32",
    "vision_config": {
        "model_type": "qwen2_5_vl",
        "depth": 4,
        "hidden_act": "silu",
        "hidden_size": 64,
        "intermediate_size": 172,
        "num_heads": 2,
        "in_chans": 3,
        "in_channels": 3,
        "out_hidden_size": 128,
        "patch_size": 14,
        "spatial_patch_size": 14,
        "spatial_merge_size": 2,
        "temporal_patch_size": 2,
        "window_size": 112,
        "fullatt_block_indexes": [1, 3],
        "tokens_per_second": 2,
    },
}

PATCHES_14 = {
    "image_processor_type": "Qwen2VLImageProcessor",
    "processor_class": "Qwen2_5_VLProcessor",
    "min_pixels": 3136,
    "max_pixels": 200704,
    "patch_size": 14,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.48145466, 0.4578275, 0.40821073],
    "image_std": [0.26862954, 0.26130258, 0.27577711],
}

PATCHES_16 = {
    "patch_size": 16,
    "temporal_patch_size": 2,
    "merge_size": 2,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "processor_class": "Qwen3VLProcessor",
    "image_processor_type": "Qwen2VLImageProcessorFast",
    "size": {"longest_edge": 16777216, "shortest_edge": 65536},
}


def decoder(c: Config, prefix: str, bias: bool, normed: bool) -> Shapes:
    """The decoder's tensors; ``normed`` has a norm of each head's query and key."""
    h, f = c["hidden_size"], c["intermediate_size"]
    d = c.get("head_dim", h // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * d, c["num_key_value_heads"] * d
    yield prefix + "embed_tokens.weight", (c["vocab_size"], h)
    for i in range(c["num_hidden_layers"]):
        p = f"{prefix}layers.{i}."
        yield p + "input_layernorm.weight", (h,)
        yield p + "post_attention_layernorm.weight", (h,)
        for name, out in (("q", q), ("k", kv), ("v", kv)):
            yield p + f"self_attn.{name}_proj.weight", (out, h)
            if bias:
                yield p + f"self_attn.{name}_proj.bias", (out,)
        yield p + "self_attn.o_proj.weight", (h, q)
        if normed:
            yield p + "self_attn.q_norm.weight", (d,)
            yield p + "self_attn.k_norm.weight", (d,)
        yield p + "mlp.gate_proj.weight", (f, h)
        yield p + "mlp.up_proj.weight", (f, h)
        yield p + "mlp.down_proj.weight", (h, f)
    yield prefix + "norm.weight", (h,)


def linear(name: str, out: int, into: int) -> Shapes:
    yield name + ".weight", (out, into)
    yield name + ".bias", (out,)


def layer_norm(name: str, size: int) -> Shapes:
    yield name + ".weight", (size,)
    yield name + ".bias", (size,)


def patch_embedding(v: Config, p: str) -> tuple[str, tuple[int, ...]]:
    side = v["patch_size"]
    shape = (v["hidden_size"], 3, v["temporal_patch_size"], side, side)
    return p + "patch_embed.proj.weight", shape


def qwen3_tower(v: Config, p: str) -> Shapes:
    e, m = v["hidden_size"], v["hidden_size"] * v["spatial_merge_size"] ** 2
    yield patch_embedding(v, p)
    yield p + "patch_embed.proj.bias", (e,)
    yield p + "pos_embed.weight", (v["num_position_embeddings"], e)
    for i in range(v["depth"]):
        b = f"{p}blocks.{i}."
        yield from layer_norm(b + "norm1", e)
        yield from layer_norm(b + "norm2", e)
        yield from linear(b + "attn.qkv", 3 * e, e)
        yield from linear(b + "attn.proj", e, e)
        yield from linear(b + "mlp.linear_fc1", v["intermediate_size"], e)
        yield from linear(b + "mlp.linear_fc2", e, v["intermediate_size"])
    deeper = range(len(v["deepstack_visual_indexes"]))
    for b in (p + "merger.", *(f"{p}deepstack_merger_list.{i}." for i in deeper)):
        # The main merger normalises before the patches are joined, the deepstack ones after.
        yield from layer_norm(b + "norm", m if "deepstack" in b else e)
        yield from linear(b + "linear_fc1", m, m)
        yield from linear(b + "linear_fc2", v["out_hidden_size"], m)


def qwen2_5_tower(v: Config, p: str) -> Shapes:
    e, m = v["hidden_size"], v["hidden_size"] * v["spatial_merge_size"] ** 2
    yield patch_embedding(v, p)
    for i in range(v["depth"]):
        b = f"{p}blocks.{i}."
        yield b + "norm1.weight", (e,)
        yield b + "norm2.weight", (e,)
        yield from linear(b + "attn.qkv", 3 * e, e)
        yield from linear(b + "attn.proj", e, e)
        yield from linear(b + "mlp.gate_proj", v["intermediate_size"], e)
        yield from linear(b + "mlp.up_proj", v["intermediate_size"], e)
        yield from linear(b + "mlp.down_proj", e, v["intermediate_size"])
    yield p + "merger.ln_q.weight", (e,)
    yield from linear(p + "merger.mlp.0", m, m)
    yield from linear(p + "merger.mlp.2", v["out_hidden_size"], m)


def qwen3_vl(c: Config) -> Shapes:
    text = c["text_config"]
    yield from decoder(text, "model.language_model.", bias=False, normed=True)
    yield from qwen3_tower(c["vision_config"], "model.visual.")
    yield "lm_head.weight", (text["vocab_size"], text["hidden_size"])


def qwen2_5_vl(c: Config) -> Shapes:
    yield from decoder(c, "model.", bias=True, normed=False)
    yield from qwen2_5_tower(c["vision_config"], "visual.")


def draw(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draws one tensor, scaled so that activations stay of order one through the depth."""
    rng = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    x = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias"):
        return (0.1 * x).astype(np.float32)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return (1.4 + 0.1 * x).astype(np.float32)
    if len(shape) == 1:
        return (1.0 + 0.1 * x).astype(np.float32)
    if name.endswith("embed_tokens.weight"):
        return x
    if name.endswith("pos_embed.weight"):
        return (0.5 * x).astype(np.float32)
    gain = 1.4 if name.endswith(("q_proj.weight", "k_proj.weight")) else 1.0
    # The types are spelt out: numpy 1 and numpy 2 promote differently.
    scaled = (np.float32(gain) * x).astype(np.float64)
    return (scaled / np.sqrt(np.float64(np.prod(shape[1:])))).astype(np.float32)


def write(
    out: Path, name: str, config: Config, image: Config, shapes: Callable[[Config], Shapes], n: int
) -> str:
    """Writes one checkpoint of ``n`` shards and returns the digest of its tensors."""
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in (("config.json", config), ("preprocessor_config.json", image)):
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")
    for path in (DATA / "tokenizers" / name).iterdir():
        shutil.copyfile(path, folder / path.name)
    tensors = {key: draw(key, shape) for key, shape in shapes(config)}
    files = {"model.safetensors": tensors}
    if n > 1:
        # A shard is full at its share of the bytes, which may be within a layer.
        files = {f"model-{part:05d}-of-{n:05d}.safetensors": {} for part in range(1, n + 1)}
        total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
        for key, tensor in tensors.items():
            list(files.values())[min(done * n // total, n - 1)][key] = tensor
            done += tensor.nbytes
        places = {key: file for file, held in files.items() for key in held}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file, held in files.items():
        save_file(held, folder / file, metadata={"format": "pt"})
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].tobytes())
    return digest.hexdigest()


def write_all(out: Path) -> None:
    """Writes the three checkpoints. Raises `ValueError` if the drawn weights are not the known."""
    sums = {
        "qwen3_vl": write(out, "qwen3_vl", QWEN3_VL, PATCHES_16, qwen3_vl, 4),
        "qwen3_vl_eot": write(out, "qwen3_vl_eot", QWEN3_VL, PATCHES_16, qwen3_vl, 1),
        "qwen2_5_vl": write(out, "qwen2_5_vl", QWEN2_5_VL, PATCHES_14, qwen2_5_vl, 2),
    }
    known = json.loads((DATA / "checkpoints.json").read_text())
    if known != sums:
        raise ValueError(f"the drawn weights differ from checkpoints.json: {sums}")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
