"""Write the tiny parity checkpoints of the later families, the same bytes on every machine.

    python -m tests.parity.make_backbones OUT [NAME ...]   # OUT/qwen3_vl and so on; all by default

The method is that of `make_checkpoints`, with other gains: attention is sharp enough for a wrong
position or a wrong order to show in the pooled vector. ``qwen3_vl`` has the nested configuration of
`Qwen/Qwen3-VL-Embedding-8B` and four shards; ``qwen3_vl_eot`` has the same tensors in one file, and
a tokenizer that appends ``<|endoftext|>`` to every text; ``qwen2_5_vl`` has the flat configuration,
old names and two shards of `Qwen/Qwen2.5-VL-3B-Instruct`. The two of Qwen2.5-Omni are in `omni`.
SHA-256 sums are in ``data/backbones/checkpoints.json``.
"""

import hashlib
import json
import shutil
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save_file

from tests.parity.omni import OMNI, THINKER, WHISPER, omni, thinker
from tests.parity.shapes import (
    QWEN2_5_DECODER,
    QWEN2_5_TOWER,
    Config,
    Shapes,
    decoder,
    qwen2_5_tower,
    qwen3_tower,
)

DATA = Path(__file__).parent / "data" / "backbones"

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
    **QWEN2_5_DECODER,
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
        **QWEN2_5_TOWER,
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

PATCHES_OMNI = {**PATCHES_14, **WHISPER, "processor_class": "Qwen2_5OmniProcessor"}


def qwen3_vl(c: Config) -> Shapes:
    text = c["text_config"]
    yield from decoder(text, "model.language_model.", bias=False, normed=True)
    yield from qwen3_tower(c["vision_config"], "model.visual.")
    yield "lm_head.weight", (text["vocab_size"], text["hidden_size"])


def qwen2_5_vl(c: Config) -> Shapes:
    yield from decoder(c, "model.", bias=True, normed=False)
    yield from qwen2_5_tower(c["vision_config"], "visual.")


GAINS = (
    (("q_proj.weight", "k_proj.weight", "attn.q.weight", "attn.k.weight"), 1.4),
    # Values of a log-mel lie close together.
    (("conv1.weight",), 4.0),
)


def draw(name: str, shape: tuple[int, ...]) -> npt.NDArray[np.float32]:
    """Draws one tensor, scaled so that activations stay of order one through the depth."""
    # Both layouts of Qwen2.5-Omni have the same weights.
    name = name.removeprefix("thinker.")
    rng = np.random.Generator(np.random.Philox(zlib.crc32(name.encode())))
    x = rng.standard_normal(shape, dtype=np.float32)
    if name.endswith(".bias"):
        return (0.1 * x).astype(np.float32)
    if name.endswith(("q_norm.weight", "k_norm.weight")):
        return (1.4 + 0.1 * x).astype(np.float32)
    if len(shape) == 1:
        return (1.0 + 0.1 * x).astype(np.float32)
    if name.endswith(("embed_tokens.weight", "audio_bos_eos_token.weight")):
        return x
    if name.endswith("pos_embed.weight"):
        return (0.5 * x).astype(np.float32)
    gain = next((gain for ends, gain in GAINS if name.endswith(ends)), 1.0)
    # The types are spelt out: numpy 1 and numpy 2 promote differently.
    scaled = (np.float32(gain) * x).astype(np.float64)
    return (scaled / np.sqrt(np.float64(np.prod(shape[1:])))).astype(np.float32)


@dataclass(frozen=True)
class Checkpoint:
    """What one of the checkpoints is made of, and of how many shards."""

    config: Config
    processor: Config
    shapes: Callable[[Config], Shapes]
    shards: int
    tokenizer: str


CHECKPOINTS = {
    "qwen3_vl": Checkpoint(QWEN3_VL, PATCHES_16, qwen3_vl, 4, "qwen3_vl"),
    "qwen3_vl_eot": Checkpoint(QWEN3_VL, PATCHES_16, qwen3_vl, 1, "qwen3_vl_eot"),
    "qwen2_5_vl": Checkpoint(QWEN2_5_VL, PATCHES_14, qwen2_5_vl, 2, "qwen2_5_vl"),
    "qwen2_5_omni": Checkpoint(OMNI, PATCHES_OMNI, omni, 3, "qwen2_5_omni"),
    "qwen2_5_omni_thinker": Checkpoint(THINKER, PATCHES_OMNI, thinker, 1, "qwen2_5_omni"),
}


def write(folder: Path, made: Checkpoint) -> str:
    """Writes one checkpoint and returns the digest of its tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    files = (("config.json", made.config), ("preprocessor_config.json", made.processor))
    for file, content in files:
        (folder / file).write_text(json.dumps(content, indent=2) + "\n")
    for path in (DATA / "tokenizers" / made.tokenizer).iterdir():
        shutil.copyfile(path, folder / path.name)
    tensors = {key: draw(key, shape) for key, shape in made.shapes(made.config)}
    held_by, n = {"model.safetensors": tensors}, made.shards
    if n > 1:
        # A shard is full at its share of the bytes, which may be within a layer.
        held_by = {f"model-{part:05d}-of-{n:05d}.safetensors": {} for part in range(1, n + 1)}
        total, done = sum(tensor.nbytes for tensor in tensors.values()), 0
        for key, tensor in tensors.items():
            list(held_by.values())[min(done * n // total, n - 1)][key] = tensor
            done += tensor.nbytes
        places = {key: file for file, held in held_by.items() for key in held}
        index = {"metadata": {"total_size": total}, "weight_map": places}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")
    for file, held in held_by.items():
        save_file(held, folder / file, metadata={"format": "pt"})
    digest = hashlib.sha256()
    for key in sorted(tensors):
        digest.update(key.encode() + tensors[key].tobytes())
    return digest.hexdigest()


def write_all(out: Path, *names: str) -> None:
    """Writes the checkpoints ``names``, or all there are. Raises `ValueError` if the drawn weights
    are not the known."""
    known = json.loads((DATA / "checkpoints.json").read_text())
    for name in names or CHECKPOINTS:
        found = write(out / name, CHECKPOINTS[name])
        if found != known[name]:
            raise ValueError(f"{name}: the drawn weights differ from checkpoints.json: {found}")


if __name__ == "__main__":
    write_all(Path(sys.argv[1]), *sys.argv[2:])
