"""Samples of any rate to 16,000 a second, by the windowed sinc that models were trained with.

The window is Hann's over six zero crossings to each side, and the passband ends at 0.99 of the
lower of the two Nyquist frequencies. A second of samples becomes exactly 16,000, by the same
weights as every other second: so audio is resampled second by second, in bounded memory, and what
becomes of a second does not depend on what comes after the next one.
"""

import functools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RATE = 16_000
"""The rate that audio is resampled to."""
CROSSINGS = 6
ROLLOFF = 0.99
BLOCK = 16
"""Outputs that share a stretch of the input, and so a matrix product: with more of them, more of
its weights are zero."""
MOST_CACHED = 640
"""The longest period, in outputs, of a rate whose weights are kept: that of 11,025 Hz. Rates of
longer ones are rare, and the weights of one may take 90 MB."""
STRETCH = 64
"""Blocks whose weights are computed together."""

Floats = npt.NDArray[np.float32]


def resample(samples: Floats, rate: int) -> Floats:
    """Resamples a whole audio: float32 ``(n,)`` at ``rate`` to ``(ceil(n * 16000 / rate),)``."""
    return np.concatenate([np.zeros(0, np.float32), *resampled([samples], rate)])


def resampled(blocks: Iterable[Floats], rate: int) -> Iterator[Floats]:
    """Resamples audio that comes in ``blocks`` of any lengths, float32 ``(n,)`` each, at ``rate``,
    an integer above 0. Takes no more of the blocks than the next second needs."""
    if rate == RATE:
        yield from blocks
        return
    width = _width(rate)
    reach = rate + 2 * width + 2  # with what the first and the last output of a second reach
    held, have = [np.zeros(width, np.float32)], width
    weights = None
    for block in blocks:
        held.append(block)
        have += len(block)
        if have >= reach:
            weights = weights or _weights(rate, RATE)
            samples = np.concatenate(held)
            while len(samples) >= reach:
                yield weights.applied(samples[:reach])
                samples = samples[rate:]
            held, have = [samples], len(samples)
    left = -(-(have - width) * RATE // rate)
    samples = np.concatenate([*held, np.zeros(reach, np.float32)])
    while left > 0:
        weights = weights or _weights(rate, min(left, RATE))
        yield weights.applied(samples[:reach])[:left]
        samples, left = samples[rate:], left - RATE


@dataclass(frozen=True)
class _Weights:
    """What the outputs of a second are made of.

    ``values`` is float32 ``(blocks, taps, outputs)`` and repeats with every period; ``starts``,
    ``(blocks, periods)``, is where the taps of each block start in the samples of a second.
    """

    starts: npt.NDArray[np.int64]
    values: Floats

    def applied(self, samples: Floats) -> Floats:
        """Computes the outputs of a second from ``samples``, its own and what they reach."""
        taps = self.values.shape[1]
        windows = np.lib.stride_tricks.sliding_window_view(samples, taps)[self.starts]
        found: Floats = windows @ self.values
        return found.transpose(1, 0, 2).reshape(-1)


def _width(rate: int) -> int:
    """How many samples an output reaches to each side."""
    return math.ceil(CROSSINGS * rate / (min(rate, RATE) * ROLLOFF))


def _weights(rate: int, outputs: int) -> _Weights:
    """The weights of a second, or of its first ``outputs`` where those are not kept."""
    few = RATE // math.gcd(rate, RATE) <= MOST_CACHED
    return _kept_weights(rate) if few else _computed_weights(rate, outputs)


@functools.lru_cache(16)
def _kept_weights(rate: int) -> _Weights:
    return _computed_weights(rate, RATE)


def _computed_weights(rate: int, outputs: int) -> _Weights:
    divisor = math.gcd(rate, RATE)
    old, new = rate // divisor, RATE // divisor
    period = new * -(-BLOCK // new)  # several of the shortest ones fill a block
    block = max(size for size in range(1, BLOCK + 1) if period % size == 0)
    first = np.arange(0, min(outputs, period), block)
    starts = first * old // new
    width = _width(rate)
    taps = np.arange(-(-block * old // new) + 2 * width + 2)
    values = np.empty((len(first), len(taps), block), np.float32)
    for at in range(0, len(first), STRETCH):
        part = slice(at, at + STRETCH)
        output = first[part, None, None] + np.arange(block)
        place = starts[part, None, None] + taps[:, None] - width
        values[part] = _sinc(output, place, old, new)
    return _Weights(starts[:, None] + np.arange(RATE // period) * (period * old // new), values)


def _sinc(
    output: npt.NDArray[np.int64], place: npt.NDArray[np.int64], old: int, new: int
) -> npt.NDArray[np.float64]:
    """What the sample at ``place`` weighs in an ``output``, both counted from the same moment, when
    ``old`` samples become ``new``."""
    periods, phase = np.divmod(output, new)
    lower = min(old, new) * ROLLOFF
    # The models were trained with phases of single precision.
    turned = -phase.astype(np.float32) / np.float32(new)
    crossings = (turned + (place - periods * old) / old) * lower
    crossings = crossings.clip(-CROSSINGS, CROSSINGS)
    hann = np.cos(crossings * (math.pi / 2 / CROSSINGS)) ** 2
    weights: npt.NDArray[np.float64] = np.sinc(crossings) * hann * (lower / old)
    return weights
