"""Qwen2-VL, made of the modules of ``transformers``."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import Qwen2VLConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import (
    Qwen2VisionTransformerPretrainedModel,
    Qwen2VLTextModel,
)

from vlm2vec_service.engine.attention import PACKED, Segments
from vlm2vec_service.engine.backbone import Backbone, inverse_frequencies
from vlm2vec_service.engine.tower import BlockNames, RunBlocks
from vlm2vec_service.engine.transfer import to_device
from vlm2vec_service.preprocess.prepared import Media


class Qwen2VL(Backbone):
    """The backbone of Qwen2-VL: the vision tower ``visual`` and the language model ``model``."""

    name = "qwen2_vl"
    vision_prefix = "visual."

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        super().__init__()
        parsed: Any = Qwen2VLConfig(**config)
        text, vision = parsed.text_config, parsed.vision_config
        text._attn_implementation = vision._attn_implementation = PACKED
        self.model: Any = Qwen2VLTextModel(text)
        self.visual: Any = Qwen2VisionTransformerPretrainedModel(vision)
        # Positions are ours: their buffers would stay on the meta device.
        del self.model.rotary_emb, self.visual.rotary_pos_emb
        self.inert = {"lm_head": (text.vocab_size, text.hidden_size)}
        self.tied = bool(parsed.tie_word_embeddings)
        self.theta: float = text.rope_parameters["rope_theta"]
        self.head_dim: int = text.hidden_size // text.num_attention_heads
        sections = text.rope_parameters["mrope_section"]
        axes = [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]
        self.axes = torch.tensor(axes, device="cpu")
        self.vision = vision
        self.blocks = BlockNames(
            blocks="visual.blocks", heads=vision.num_heads,
            attention_norm="norm1", qkv=("attn.qkv",), output="attn.proj",
            mlp_norm="norm2", up="mlp.fc1", activation="mlp.act", down="mlp.fc2",
        )  # fmt: skip
        self.mean = torch.tensor(image_config["image_mean"], device="cpu")
        self.std = torch.tensor(image_config["image_std"], device="cpu")

    def rename(self, name: str) -> str | None:
        """Maps the names of ``transformers`` since 4.52, which has both towers below ``model``, to
        those of the original checkpoint."""
        if name == "lm_head":
            return name
        if name == "lm_head.weight":
            return None
        for new, old in (("model.language_model.", "model."), ("model.visual.", "visual.")):
            if name.startswith(new):
                return old + name.removeprefix(new)
        return name

    def known_as(self, name: str) -> Sequence[str]:
        """Lists the name here and the one that ``transformers`` has had since 4.52."""
        if name.startswith("visual."):
            return name, f"model.{name}"
        return name, name.replace("model.", "model.language_model.", 1)

    def patches(self, media: Media) -> int:
        """Counts the patches of ``media``, of which four are merged into a token."""
        return media.tokens * self.vision.spatial_merge_size**2

    def encode(self, media: Sequence[Media], run_blocks: RunBlocks | None = None) -> list[Tensor]:
        """Runs all images and frames as one packed sequence; no patch attends beyond its frame."""
        weight = self.visual.patch_embed.proj.weight
        grids = [self._grid(item) for item in media]
        # The convolution's stride is its kernel: it is a matrix product, and faster as one.
        hidden = F.linear(self._patches(media).to(weight.dtype), weight.flatten(1))
        frames = [height * width for time, height, width in grids for _ in range(time)]
        segments = Segments(frames, causal=False, device=weight.device)
        run = run_blocks or self._run_blocks
        hidden = run(hidden, segments, self._vision_rotary(grids, weight.device))
        features: Tensor = self.visual.merger(hidden)
        return list(features.split([item.tokens for item in media]))

    def _run_blocks(
        self, hidden: Tensor, segments: Segments, rotary: tuple[Tensor, Tensor] | None
    ) -> Tensor:
        # One chunk for the modules' own splitting: the attention knows the segments.
        whole = torch.tensor([0, len(hidden)], device="cpu")
        for block in self.visual.blocks:
            hidden = block(hidden, cu_seqlens=whole, position_embeddings=rotary, segments=segments)
        return hidden

    def _patches(self, media: Sequence[Media]) -> Tensor:
        """Cuts all of ``media`` into patches, neighbours of one size together."""
        cut = []
        for _, run in itertools.groupby(media, key=lambda item: item.pixels.shape):
            cut.append(self.cut(np.stack([item.pixels for item in run])))
        return torch.cat(cut)

    def cut(self, pixels: npt.NDArray[np.uint8]) -> Tensor:
        """Rescales and normalises pictures or videos of one size and cuts them into patches.

        ``pixels`` is ``(count, frames, height, width, 3)``. Returns float32
        ``(count * patches, 3 * time * side * side)``, in the order of the merged tokens. An odd
        last frame is repeated.
        """
        device = self.visual.patch_embed.proj.weight.device
        time, merge, side = (
            self.vision.temporal_patch_size,
            self.vision.spatial_merge_size,
            self.vision.patch_size,
        )
        values = to_device(pixels, device)
        values = torch.cat(
            [values, values[:, -1:].expand(-1, -values.shape[1] % time, -1, -1, -1)], 1
        )
        count, frames, height, width, channels = values.shape
        tiles = values.view(
            count,
            frames // time, time,
            height // (side * merge), merge, side,
            width // (side * merge), merge, side,
            channels,
        )  # fmt: skip
        # To (time, row, column, row in token, column in token) of (channel, time, y, x).
        patches = tiles.permute(0, 1, 3, 6, 4, 7, 9, 2, 5, 8).reshape(-1, channels, time * side**2)
        mean, std = (each.to(device)[:, None] for each in (self.mean, self.std))
        return ((patches.float() * (1 / 255) - mean) / std).flatten(1)

    def rotary(self, positions: Tensor, lengths: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Applies M-RoPE: each section of the frequencies turns with one axis of the positions."""
        frequencies = inverse_frequencies(self.theta, self.head_dim, positions.device)
        if self.axes.device != positions.device:
            self.axes = self.axes.to(positions.device)
        angles = positions[self.axes].T * frequencies
        angles = torch.cat((angles, angles), dim=1)
        return angles.cos(), angles.sin()

    def _grid(self, media: Media) -> tuple[int, int, int]:
        """Counts the patches in time, height and width."""
        frames, height, width, _ = media.pixels.shape
        side = self.vision.patch_size
        return -(-frames // self.vision.temporal_patch_size), height // side, width // side

    def _vision_rotary(
        self, grids: Sequence[tuple[int, int, int]], device: torch.device
    ) -> tuple[Tensor, Tensor]:
        """Turns half of each head with a patch's row and half with its column."""
        merge = self.vision.spatial_merge_size
        places = []
        for time, height, width in grids:
            grid = torch.from_numpy(np.indices((height, width), dtype=np.float32))
            tiles = grid.view(2, height // merge, merge, width // merge, merge)
            places.append(tiles.permute(1, 3, 2, 4, 0).reshape(-1, 2).repeat(time, 1))
        place = to_device(torch.cat(places).numpy(), device)
        half = self.vision.embed_dim // self.vision.num_heads // 2
        angles = (place[..., None] * inverse_frequencies(10_000.0, half, device)).flatten(1)
        angles = torch.cat((angles, angles), dim=1)
        return angles.cos(), angles.sin()
