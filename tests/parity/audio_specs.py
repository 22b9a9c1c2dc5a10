"""The parity cases' audio, which formulas make from the specs in ``cases.json``.

A spec has the ``rate`` in Hz, the ``samples`` of a channel, the ``format`` and its ``channels``, a
voice each: a ``kind`` of `KINDS` and what that takes, an ``envelope``, and a ``pause`` ``[from,
to]``, the samples that are 0. Samples are multiples of 1 / 32768, so that both formats of a WAV
hold them exactly; ``int16`` is clipped, ``float32`` is not.
"""

import struct
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

Spec = dict[str, Any]
Wave = npt.NDArray[np.float64]
TURN = 2.0 * np.pi
FORMATS = {"int16": (1, "<i2"), "float32": (3, "<f4")}
"""The code of a format in a WAV file, and the type of its samples there."""


def sweep(voice: Spec, t: Wave, length: float) -> Wave:
    """A sine whose frequency goes from one to another over the whole length."""
    low, high = voice["from"], voice["to"]
    return np.sin(TURN * (low * t + 0.5 * (high - low) / length * t * t)) * voice["gain"]


def tones(voice: Spec, t: Wave, length: float) -> Wave:
    found = np.zeros_like(t)
    for frequency, gain in voice["tones"]:
        found += gain * np.sin(TURN * frequency * t)
    return found


def noise(voice: Spec, t: Wave, length: float) -> Wave:
    """Uniform noise, from words that are the same on every machine."""
    words = np.random.Philox(voice["seed"]).random_raw(len(t)) >> np.uint64(32)
    return (words.astype(np.float64) / 2.0**31 - 1.0) * voice["gain"]


def speech(voice: Spec, t: Wave, length: float) -> Wave:
    """Harmonics under two formants, whose pitch glides by 20 %, in so many syllables a second."""
    pitch = voice["pitch"]
    phase = TURN * pitch * (t + 0.2 / (TURN * 2.0) * (1.0 - np.cos(TURN * 2.0 * t)))
    found = np.zeros_like(t)
    for harmonic in range(1, 13):
        frequency = harmonic * pitch
        formants = 1.0 / (1.0 + ((frequency - 600.0) / 300.0) ** 2)
        formants += 0.6 / (1.0 + ((frequency - 1500.0) / 400.0) ** 2)
        found += formants * np.sin(harmonic * phase)
    syllables = np.maximum(0.0, np.sin(TURN * voice["rate"] * t)) ** 2
    return 0.4 * voice["gain"] * found * syllables


def clicks(voice: Spec, t: Wave, length: float) -> Wave:
    found = np.zeros_like(t)
    found[:: voice["every"]] = voice["gain"]
    return found


KINDS: dict[str, Callable[[Spec, Wave, float], Wave]] = {
    "silence": lambda voice, t, length: np.zeros_like(t),
    "sweep": sweep, "tones": tones, "noise": noise, "speech": speech, "clicks": clicks,
}  # fmt: skip


def waveform(spec: Spec) -> npt.NDArray[np.float32]:
    """The samples, ``(samples, channels)``; integers are divided by 32768."""
    count, rate = spec["samples"], spec["rate"]
    index = np.arange(count, dtype=np.float64)
    channels = []
    for voice in spec["channels"]:
        found = KINDS[voice["kind"]](voice, index / rate, count / rate)
        if voice.get("envelope") == "hann":
            found = found * np.sin(np.pi * index / count) ** 2
        elif voice.get("envelope") == "decay":
            found = found * np.exp(-3.0 * index / count)
        start, stop = voice.get("pause", (0, 0))
        found[start:stop] = 0.0
        channels.append(found)
    units = np.floor(32768.0 * np.stack(channels, axis=1) + 0.5)
    if spec["format"] == "int16":
        units = units.clip(-32768, 32767)
    return (units / 32768.0).astype(np.float32)


def wav(spec: Spec) -> bytes:
    """The same audio as a WAV file."""
    samples, rate = waveform(spec), spec["rate"]
    code, kind = FORMATS[spec["format"]]
    data = (samples * 32768 if code == 1 else samples).astype(kind).tobytes()
    width, channels = np.dtype(kind).itemsize, samples.shape[1]
    block = width * channels
    form = struct.pack("<HHIIHH", code, channels, rate, rate * block, block, 8 * width)
    chunks = b"".join(
        name + struct.pack("<I", len(content)) + content
        for name, content in ((b"fmt ", form), (b"data", data))
    )
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WAVE" + chunks
