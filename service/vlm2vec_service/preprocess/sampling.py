"""Which frames of a film are taken."""

from dataclasses import dataclass

import numpy as np

USUAL_FPS = 24.0
"""Frames a second of a file that does not tell."""


@dataclass(frozen=True)
class FrameRate:
    """Takes ``fps`` frames of each second, ``least`` to ``most``: an even number, since models see
    frames in pairs (the rule of Qwen's own sampling, qwen-vl-utils)."""

    fps: float
    least: int
    most: int

    def indices(self, frames: int, fps: float) -> tuple[int, ...]:
        """Chooses among so many ``frames`` of a film with ``fps`` frames a second."""
        least, most = self.least + self.least % 2, min(self.most, frames)
        wanted = min(max(frames / fps * self.fps, least), most - most % 2, frames)
        count = int(wanted) // 2 * 2
        return tuple(np.rint(np.linspace(0, frames - 1, count)).astype(int).tolist())


@dataclass(frozen=True)
class FrameCount:
    """Takes ``count`` frames, evenly spread, or all of a film that has fewer."""

    count: int

    def indices(self, frames: int, fps: float) -> tuple[int, ...]:
        """Chooses among so many ``frames``, whatever the rate ``fps``."""
        return uniform(frames, self.count)


Sampling = FrameRate | FrameCount


def uniform(frames: int, count: int) -> tuple[int, ...]:
    """Chooses ``count`` of so many ``frames``, or all that there are: the frame
    ``floor(i * (frames - 1) / (count - 1))`` for each ``i``."""
    return tuple(np.linspace(0, frames - 1, min(count, frames), dtype=int).tolist())
