"""Qwen3-VL, made of the modules of ``transformers``."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import Qwen3VLConfig
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLTextModel, Qwen3VLVisionModel

from vlm2vec_service.backbones.qwen_vl.model import Grid, QwenVL
from vlm2vec_service.engine.tower import BlockNames, RunBlocks
from vlm2vec_service.engine.transfer import to_device
from vlm2vec_service.errors import CheckpointError


class Qwen3VL(QwenVL):
    """The backbone of Qwen3-VL: what some blocks of the tower see is added behind the first layers
    of the language model."""

    name = "qwen3_vl"

    def __init__(self, config: dict[str, Any], image_config: dict[str, Any]) -> None:
        super().__init__(
            Qwen3VLConfig(**config), Qwen3VLTextModel, Qwen3VLVisionModel, image_config
        )
        self.seen_by: list[int] = list(self.vision.deepstack_visual_indexes)
        self.deep_layers = len(self.seen_by)
        if self.seen_by != sorted(set(self.seen_by)) or self.deep_layers >= len(self.model.layers):
            raise CheckpointError(f"deepstack_visual_indexes: {self.seen_by} is not understood")
        names = BlockNames(
            blocks="visual.blocks", heads=self.vision.num_heads,
            attention_norm="norm1", qkv=("attn.qkv",), output="attn.proj",
            mlp_norm="norm2", up=("mlp.linear_fc1",), activation="mlp.act_fn",
            down="mlp.linear_fc2",
        )  # fmt: skip
        self.towers = (names,)

    def axes_of(self, sections: Sequence[int]) -> list[int]:
        """Lets frequencies take the rows by turns, height and width only up to their sections."""
        turns = [index % 3 for index in range(self.head_dim // 2)]
        return [axis if index < 3 * sections[axis] else 0 for index, axis in enumerate(turns)]

    def features(
        self, hidden: Tensor, grids: Sequence[Grid], rotary: tuple[Tensor, Tensor], run: RunBlocks
    ) -> Tensor:
        """Runs the blocks, and joins each four patches to a token: behind the last block, and for
        the features after the first behind those that are ``seen_by`` the language model."""
        hidden = hidden + self._places(grids).to(hidden.dtype)
        segments = self.frames(grids, hidden.device)
        deeper, start = [], 0
        for index, merger in zip(self.seen_by, self.visual.deepstack_merger_list, strict=True):
            hidden = run(hidden, segments, rotary, slice(start, index + 1))
            deeper.append(merger(hidden))
            start = index + 1
        hidden = run(hidden, segments, rotary, slice(start, None))
        return torch.cat((self.visual.merger(hidden), *deeper), dim=1)

    def _places(self, grids: Sequence[Grid]) -> Tensor:
        """Interpolates the learned table of places to each of ``grids``: float32
        ``(patches, width)``, in the order of the merged tokens."""
        merge = self.vision.spatial_merge_size
        table = self.visual.pos_embed.weight.float()
        table = table.unflatten(0, (self.visual.num_grid_per_side, -1))
        found = {}
        for grid in dict.fromkeys(grids):
            time, height, width = grid
            before, behind, part = self._between(height)
            places = torch.lerp(table[before], table[behind], part[:, None, None])
            before, behind, part = self._between(width)
            places = torch.lerp(places[:, before], places[:, behind], part[:, None])
            tiles = places.unflatten(1, (-1, merge)).unflatten(0, (-1, merge))
            found[grid] = tiles.transpose(1, 2).flatten(0, 3).repeat(time, 1)
        return torch.cat([found[grid] for grid in grids])

    def _between(self, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Spreads ``count`` patches over one side of the table, corner to corner: the places before
        and behind each, and how far it is between them, float32."""
        last = self.visual.num_grid_per_side - 1
        places = np.linspace(0, last, count)
        before = np.floor(places).astype(np.int64)
        behind = np.minimum(before + 1, last)
        part = (places - before).astype(np.float32)
        device = self.visual.pos_embed.weight.device
        return to_device(before, device), to_device(behind, device), to_device(part, device)
