"""How much arithmetic a batch needs, and how fast this device multiplies matrices."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from vlm2vec_service.engine.backbone import Backbone
from vlm2vec_service.engine.linear import AdaptedLinear
from vlm2vec_service.preprocess.prepared import Media, Prepared


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the best of a few square and tall products: what this device can do now."""
    side = 8192 if device.type == "cuda" else 2048
    best = 0.0
    for rows, inner, columns in ((side, side, side), (side, side // 2, 2 * side)):
        a = torch.randn(rows, inner, device=device, dtype=dtype)
        b = torch.randn(inner, columns, device=device, dtype=dtype)
        for _ in range(10):
            start = time.perf_counter()
            a @ b
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best = max(best, 2 * rows * inner * columns / (time.perf_counter() - start))
    return best


def batch_flops(backbone: Backbone, inputs: Sequence[Prepared]) -> float:
    """Multiplications and additions that the vectors of ``inputs`` need without an adapter.

    Counted is what our engine does: products of linear layers, and attention (half of it where it
    is causal); not norms or activations, and the last MLP for one token of each input.
    """
    linears = {
        name: module.weight.numel()
        for name, module in backbone.named_modules()
        if isinstance(module, nn.Linear | AdaptedLinear)
    }
    final = len(list(backbone.model.layers)) - 1
    pooled = sum(n for name, n in linears.items() if f"model.layers.{final}.mlp." in name)
    text = sum(n for name, n in linears.items() if not name.startswith(backbone.media_prefixes))
    text -= pooled
    hidden = backbone.model.embed_tokens.embedding_dim
    total = 0.0
    for prepared in inputs:
        length = len(prepared)
        total += 2 * text * length + 2 * pooled + 2 * (final + 1) * length**2 * hidden
        for media in prepared.media:
            count = audio_flops if media.kind == "audio" else vision_flops
            total += count(backbone, media)
    return total


def audio_flops(backbone: Backbone, audio: Media) -> float:
    """Of one audio: its two convolutions, the layers on pairs of frames, the projection on
    tokens."""
    tower: Any = backbone.get_submodule("audio_tower")
    frames, pairs, chunk = len(audio.values), backbone.patches(audio), tower.config.n_window
    first, second = (tower.get_parameter(f"conv{index}.weight").numel() for index in (1, 2))
    layers = _linears(tower.get_submodule("layers"))
    attention = 4 * chunk * pairs * tower.config.d_model * tower.config.encoder_layers
    projection = _linears(tower) - layers
    products = first * frames + (second + layers) * pairs + projection * audio.tokens
    return 2.0 * products + attention


def vision_flops(backbone: Backbone, picture: Media) -> float:
    """Of one image: the linear layers behind the patch merger run on tokens, others on patches."""
    tokens, patches = picture.tokens, backbone.patches(picture)
    if backbone.name == "phi3_v":
        embedding = backbone.get_submodule("model.vision_embed_tokens")
        projection = sum(p.numel() for p in embedding.get_submodule("img_projection").parameters())
        crops = patches // 577
        attention = 4 * crops * 577**2 * 1024 * 23
        parameters = _linears(embedding)
        return 2 * (parameters - projection) * patches + 2 * projection * tokens + attention
    visual: Any = backbone.get_submodule("visual")
    merger = sum(
        _linears(part) for name, part in visual.named_children() if "merger" in name
    )  # fmt: skip
    patch = visual.get_parameter("patch_embed.proj.weight")
    depth = len(list(visual.get_submodule("blocks").children()))
    config = visual.config
    whole = len(getattr(config, "fullatt_block_indexes", range(depth)))
    seen = whole * patches
    if whole < depth:
        seen += (depth - whole) * (config.window_size // config.patch_size) ** 2
    attention = 4 * seen * patches * patch.shape[0]
    return (
        2 * (_linears(visual) - merger + patch.numel()) * patches + 2 * merger * tokens + attention
    )


def _linears(module: nn.Module) -> int:
    """Counts the weights of all linear layers in ``module``."""
    return sum(
        part.weight.numel()
        for part in module.modules()
        if isinstance(part, nn.Linear | AdaptedLinear)
    )
