"""The vision tower with windows, which Qwen2.5-VL and Qwen2.5-Omni have."""

import itertools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from torch import Tensor

from vlm2vec_service.backbones.qwen_vl.model import Grid, QwenVL
from vlm2vec_service.engine.attention import Segments
from vlm2vec_service.engine.tower import BlockNames, RunBlocks
from vlm2vec_service.engine.transfer import to_device


class WindowedQwenVL(QwenVL):
    """A backbone in most blocks of whose vision tower a patch attends to its window."""

    def blocks_named(self, *qkv: str) -> BlockNames:
        """Names the modules of the vision tower, in which ``qkv`` is one layer or three."""
        return BlockNames(
            blocks="visual.blocks", heads=self.vision.num_heads,
            attention_norm="norm1", qkv=qkv, output="attn.proj",
            mlp_norm="norm2", up=("mlp.gate_proj", "mlp.up_proj"), activation="mlp.act_fn",
            down="mlp.down_proj",
        )  # fmt: skip

    def features(
        self, hidden: Tensor, grids: Sequence[Grid], rotary: tuple[Tensor, Tensor], run: RunBlocks
    ) -> Tensor:
        """Runs the blocks with the patches sorted by window, joins each four patches to a token,
        and puts the tokens back in order."""
        order, lengths = self._windows(grids)
        merged = self.vision.spatial_merge_size**2
        rows = to_device(order, hidden.device)

        def by_window(patches: Tensor) -> Tensor:
            return patches.unflatten(0, (-1, merged))[rows].flatten(0, 1)

        cos, sin = rotary
        rotary = by_window(cos), by_window(sin)
        hidden = by_window(hidden)
        frames = self.frames(grids, hidden.device)
        windows = Segments([merged * length for length in lengths], False, hidden.device)
        whole = set(self.vision.fullatt_block_indexes)
        blocks = range(self.vision.depth)
        for is_whole, run_of in itertools.groupby(blocks, key=lambda block: block in whole):
            indices = list(run_of)
            segments = frames if is_whole else windows
            hidden = run(hidden, segments, rotary, slice(indices[0], indices[-1] + 1))
        tokens: Tensor = self.visual.merger(hidden)
        return tokens[rows.argsort()]

    def _windows(self, grids: Sequence[Grid]) -> tuple[npt.NDArray[np.int64], list[int]]:
        """Sorts the tokens of all ``grids`` by frame and window, row by row; windows are cut off at
        the right and bottom. Returns the tokens' places, and how many each window has."""
        merge = self.vision.spatial_merge_size
        side = self.vision.window_size // merge // self.vision.patch_size
        orders, lengths, start = [], [], 0
        for time, height, width in grids:
            rows, columns = height // merge, width // merge
            tokens = np.arange(start, start + rows * columns).reshape(rows, columns)
            windows = [
                tokens[top : top + side, left : left + side].ravel()
                for top in range(0, rows, side)
                for left in range(0, columns, side)
            ]
            frame = np.concatenate(windows)
            for step in range(time):
                orders.append(frame + step * frame.size)
            lengths += [window.size for window in windows] * time
            start += time * frame.size
        return np.concatenate(orders), lengths
