"""Samples to the log-mel values that Whisper's audio towers read, in numpy."""

import functools
import math

import numpy as np
import numpy.typing as npt

from vlm2vec_service.preprocess.resample import RATE

WINDOW = 400
"""Samples of a frame, and the fewest that make one that says anything."""
HOP = 160
"""Samples from a frame to the next."""
BLOCK = 512
"""Frames that are transformed together: more of them leave the processor's cache."""
RANGE = 8.0
"""Powers of ten below the loudest value of an audio; quieter ones are lifted to there."""
QUIETEST = 1e-10

Floats = npt.NDArray[np.float32]


def log_mel(samples: Floats, bands: int = 128) -> Floats:
    """Computes the log-mel of an audio: float32 ``(ceil(n / 160), bands)``.

    ``samples`` is float32 ``(n,)`` at 16,000 a second, with n of one or more. A frame is centred on
    its first sample; what is before the first sample is its mirror image, what follows the last one
    is silence.
    """
    frames = -(-len(samples) // HOP)
    silence = np.zeros(WINDOW, np.float32)
    mirrored = np.concatenate([samples[: WINDOW // 2 + 1], silence])[WINDOW // 2 : 0 : -1]
    padded = np.concatenate([mirrored, samples, silence])
    windows = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP][:frames]
    found = np.empty((frames, bands), np.float32)
    for start in range(0, frames, BLOCK):
        block = slice(start, start + BLOCK)
        spectrum = np.fft.rfft(windows[block] * _hann())
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32, copy=False)
        np.matmul(power, _filters(bands), out=found[block])
    # Processors have instructions for the natural logarithm, and none for this one.
    np.log(np.maximum(found, np.float32(QUIETEST), out=found), out=found)
    found *= np.float32(1.0 / math.log(10.0))
    np.maximum(found, found.max() - np.float32(RANGE), out=found)
    found += np.float32(4.0)
    found /= np.float32(4.0)
    return found


@functools.lru_cache(1)
def _hann() -> Floats:
    """The periodic Hann window."""
    turns = np.arange(WINDOW) / WINDOW
    return (0.5 - 0.5 * np.cos(2.0 * np.pi * turns)).astype(np.float32)


@functools.lru_cache(4)
def _filters(bands: int) -> Floats:
    """Slaney's triangles of equal area from 0 to 8,000 Hz: float32 ``(201, bands)``."""
    corners = _hertz(np.linspace(0.0, _mels(RATE / 2), bands + 2))
    bins = np.linspace(0.0, RATE / 2, WINDOW // 2 + 1)[:, None]
    low, middle, high = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (bins - low) / (middle - low), (high - bins) / (high - middle)
    triangles = np.maximum(0.0, np.minimum(rising, falling))
    return (triangles * (2.0 / (high - low))).astype(np.float32)


LINEAR = 200.0 / 3.0
"""Hertz of a mel up to `KNEE`; above it mels count logarithmically, 27 to a factor of 6.4."""
KNEE = 1000.0
STEP = math.log(6.4) / 27.0


def _mels(hertz: float) -> float:
    """The mels of a frequency that is not below `KNEE`."""
    return KNEE / LINEAR + math.log(hertz / KNEE) / STEP


def _hertz(mels: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    above = KNEE * np.exp(STEP * (mels - KNEE / LINEAR))
    return np.where(mels < KNEE / LINEAR, LINEAR * mels, above)
