"""The backbones of the Qwen-VL families, as far as they are alike."""

import functools
import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from vlm2vec_service.engine.attention import PACKED, Segments
from vlm2vec_service.engine.backbone import Backbone, inverse_frequencies
from vlm2vec_service.engine.tower import ALL, RunBlocks
from vlm2vec_service.engine.transfer import to_device
from vlm2vec_service.preprocess.prepared import Media

Grid: TypeAlias = tuple[int, int, int]
"""Patches of an image or video in time, height and width."""
Tree: TypeAlias = tuple[str | None, ...]
"""The starts of the names of a model's parts, in the order of `QwenVL.parts`."""


class QwenVL(Backbone):
    """A vision tower ``visual`` and a language model ``model``, which reads positions by M-RoPE.

    A subclass makes both from the parsed ``config.json``, and sets `towers`.
    """

    media_prefixes: tuple[str, ...] = ("visual.",)
    parts: tuple[str, ...] = ("model.", "visual.")
    """The starts of the names of the language model and of the towers, here."""
    trees: tuple[Tree, ...] = (
        ("model.", "visual."),
        ("model.language_model.", "model.visual."),
        ("language_model.", "visual."),
        ("", None),
    )
    """The starts of the names of `parts` as an adapter may have them: those of the first
    checkpoints and here, those of ``transformers`` since 4.52, and those within its inner model,
    and within its text model alone, which VLM2Vec trains too."""

    def __init__(
        self, config: Any, model: type, visual: type, image_config: dict[str, Any]
    ) -> None:
        super().__init__()
        text, vision = config.text_config, config.vision_config
        text._attn_implementation = vision._attn_implementation = PACKED
        self.model: Any = model(text)
        self.visual: Any = visual(vision)
        # Positions are ours: their buffers would stay on the meta device.
        del self.model.rotary_emb, self.visual.rotary_pos_emb
        self.inert = {"lm_head": (text.vocab_size, text.hidden_size)}
        self.tied = bool(config.tie_word_embeddings)
        self.theta: float = text.rope_parameters["rope_theta"]
        self.head_dim: int = self.model.layers[0].self_attn.head_dim
        sections = text.rope_parameters["mrope_section"]
        self.axes = torch.tensor(self.axes_of(sections), device="cpu")
        self.vision = vision
        self.mean = torch.tensor(image_config["image_mean"], device="cpu")
        self.std = torch.tensor(image_config["image_std"], device="cpu")

    def axes_of(self, sections: Sequence[int]) -> list[int]:
        """Says which row of the positions each frequency turns with: here in blocks, as long as
        ``sections`` says."""
        return [axis % 3 for axis, size in enumerate(sections) for _ in range(size)]

    def rename(self, name: str) -> str | None:
        """Maps the names of each of `trees` to those here."""
        if name == "lm_head":
            return name
        if name == "lm_head.weight":
            return None
        if name.startswith("layers."):
            return f"model.{name}"
        for start, part in self._starts:
            if name.startswith(start):
                return part + name.removeprefix(start)
        return name

    @functools.cached_property
    def _starts(self) -> list[tuple[str, str]]:
        """The starts of names in `trees`, the longest first, each with the part that it is of."""
        found = {
            start: part
            for tree in self.trees
            for start, part in zip(tree, self.parts, strict=True)
            if start
        }
        return sorted(found.items(), key=lambda pair: len(pair[0]), reverse=True)

    def known_as(self, name: str) -> Sequence[str | None]:
        """Lists the names in each of `trees`."""
        for part, known in zip(self.parts, zip(*self.trees, strict=True), strict=True):
            if name.startswith(part):
                rest = name.removeprefix(part)
                return [None if start is None else start + rest for start in known]
        return [name] * len(self.trees)

    def patches(self, media: Media) -> int:
        """Counts the patches of ``media``, of which four are merged into a token."""
        return media.tokens * self.vision.spatial_merge_size**2

    def encode(self, media: Sequence[Media], runs: Sequence[RunBlocks] = ()) -> list[Tensor]:
        """Runs all images and frames as one packed sequence; no patch attends beyond its frame."""
        projection = self.visual.patch_embed.proj
        weight, bias = projection.weight, projection.bias
        grids = [self.grid(item) for item in media]
        # The convolution's stride is its kernel: it is a matrix product, and faster as one.
        hidden = F.linear(self._patches(media).to(weight.dtype), weight.flatten(1), bias)
        rotary = self._vision_rotary(grids, weight.device)
        features = self.features(hidden, grids, rotary, runs[0] if runs else self._run_blocks)
        return list(features.split([item.tokens for item in media]))

    @abstractmethod
    def features(
        self, hidden: Tensor, grids: Sequence[Grid], rotary: tuple[Tensor, Tensor], run: RunBlocks
    ) -> Tensor:
        """Turns the embedded patches ``(patches, width)`` of media on ``grids`` into features
        ``(tokens, (1 + deep_layers) * hidden)``; ``run`` runs the tower's blocks."""

    def _run_blocks(
        self,
        hidden: Tensor,
        segments: Segments,
        rotary: tuple[Tensor, Tensor] | None,
        blocks: slice = ALL,
    ) -> Tensor:
        # One chunk for the modules' own splitting: the attention knows the segments.
        whole = torch.tensor([0, len(hidden)], device="cpu")
        for block in self.visual.blocks[blocks]:
            hidden = block(hidden, cu_seqlens=whole, position_embeddings=rotary, segments=segments)
        return hidden

    def _patches(self, media: Sequence[Media]) -> Tensor:
        """Cuts all of ``media`` into patches, neighbours of one size together."""
        cut = []
        for _, run in itertools.groupby(media, key=lambda item: item.values.shape):
            cut.append(self.cut(np.stack([item.values for item in run])))
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
        """Applies M-RoPE: each frequency turns with one row of the positions."""
        frequencies = inverse_frequencies(self.theta, self.head_dim, positions.device)
        if self.axes.device != positions.device:
            self.axes = self.axes.to(positions.device)
        angles = positions[self.axes].T * frequencies
        angles = torch.cat((angles, angles), dim=1)
        return angles.cos(), angles.sin()

    def grid(self, media: Media) -> Grid:
        """Counts the patches in time, height and width."""
        frames, height, width, _ = media.values.shape
        side = self.vision.patch_size
        return -(-frames // self.vision.temporal_patch_size), height // side, width // side

    def frames(self, grids: Sequence[Grid], device: torch.device) -> Segments:
        """Makes a segment of the patches of each frame, which attend to each other."""
        lengths = [height * width for time, height, width in grids for _ in range(time)]
        return Segments(lengths, causal=False, device=device)

    def _vision_rotary(self, grids: Sequence[Grid], device: torch.device) -> tuple[Tensor, Tensor]:
        """Turns half of each head with a patch's row and half with its column."""
        merge = self.vision.spatial_merge_size
        places = []
        for time, height, width in grids:
            grid = torch.from_numpy(np.indices((height, width), dtype=np.float32))
            tiles = grid.view(2, height // merge, merge, width // merge, merge)
            places.append(tiles.permute(1, 3, 2, 4, 0).reshape(-1, 2).repeat(time, 1))
        place = to_device(torch.cat(places).numpy(), device)
        width = self.visual.patch_embed.proj.out_channels
        half = width // self.vision.num_heads // 2
        angles = (place[..., None] * inverse_frequencies(10_000.0, half, device)).flatten(1)
        angles = torch.cat((angles, angles), dim=1)
        return angles.cos(), angles.sin()
