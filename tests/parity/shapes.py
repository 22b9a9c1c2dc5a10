"""The tensors of the parts that the tiny checkpoints of `make_backbones` are made of."""

from collections.abc import Iterator
from typing import Any

Config = dict[str, Any]
Shapes = Iterator[tuple[str, tuple[int, ...]]]
"""Names and shapes of tensors."""
QWEN2_5_DECODER: Config = {
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
}
"""What the decoders of the tiny Qwen2.5-VL and Qwen2.5-Omni are alike in."""
QWEN2_5_TOWER: Config = {
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
}
"""The same of their vision towers."""


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


def qwen2_5_tower(v: Config, p: str, qkv: tuple[str, ...] = ("qkv",)) -> Shapes:
    """The vision tower; ``qkv`` names the layer, or the three, of query, key and value."""
    e, m = v["hidden_size"], v["hidden_size"] * v["spatial_merge_size"] ** 2
    yield patch_embedding(v, p)
    for i in range(v["depth"]):
        b = f"{p}blocks.{i}."
        yield b + "norm1.weight", (e,)
        yield b + "norm2.weight", (e,)
        for name in qkv:
            yield from linear(f"{b}attn.{name}", 3 * e // len(qkv), e)
        yield from linear(b + "attn.proj", e, e)
        yield from linear(b + "mlp.gate_proj", v["intermediate_size"], e)
        yield from linear(b + "mlp.up_proj", v["intermediate_size"], e)
        yield from linear(b + "mlp.down_proj", e, v["intermediate_size"])
    yield p + "merger.ln_q.weight", (e,)
    yield from linear(p + "merger.mlp.0", m, m)
    yield from linear(p + "merger.mlp.2", v["out_hidden_size"], m)


def audio_tower(a: Config, p: str) -> Shapes:
    e = a["d_model"]
    yield p + "conv1.weight", (e, a["num_mel_bins"], 3)
    yield p + "conv1.bias", (e,)
    yield p + "conv2.weight", (e, e, 3)
    yield p + "conv2.bias", (e,)
    yield p + "audio_bos_eos_token.weight", (2, a["output_dim"])
    for i in range(a["encoder_layers"]):
        b = f"{p}layers.{i}."
        yield from layer_norm(b + "self_attn_layer_norm", e)
        yield from layer_norm(b + "final_layer_norm", e)
        for name in ("q", "v", "out"):
            yield from linear(b + f"self_attn.{name}_proj", e, e)
        # As in Whisper, keys have no bias.
        yield b + "self_attn.k_proj.weight", (e, e)
        yield from linear(b + "fc1", a["encoder_ffn_dim"], e)
        yield from linear(b + "fc2", e, a["encoder_ffn_dim"])
    yield from layer_norm(p + "ln_post", e)
    yield from linear(p + "proj", a["output_dim"], e)
