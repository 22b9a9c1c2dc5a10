"""Audio that tests make up, and what becomes of it, read from the formulas alone."""

import io
import struct

import av
import numpy as np
import numpy.typing as npt
import pytest

Floats = npt.NDArray[np.float32]
Numbers = npt.NDArray[np.float64]
WIDTHS = {"u8": 1, "s16": 2, "s24": 3, "s32": 4, "f32": 4, "f64": 8}
"""Bytes of a sample, by its type in a WAV."""


def tones(count: int, rate: int, channels: int = 1) -> Numbers:
    """Sums of two sines, another in each channel, within 0.9: ``(count, channels)``."""
    turns = np.arange(count)[:, None] / rate * 2.0 * np.pi
    channel = np.arange(channels) + 1.0
    return 0.5 * np.sin(turns * 220.0 * channel) + 0.4 * np.sin(turns * 330.0 * channel)


def resampled(samples: npt.ArrayLike, rate: int, outputs: slice | None = None) -> Numbers:
    """What becomes of ``(n,)`` samples at 16,000 a second, sample by sample of the output."""
    values = np.asarray(samples, np.float64)
    count = -(-len(values) * 16_000 // rate)
    if rate == 16_000:
        return values
    divisor = np.gcd(rate, 16_000)
    old, new = rate // divisor, 16_000 // divisor
    lower = 0.99 * min(old, new)
    found = []
    for output in range(count)[outputs or slice(None)]:
        period, phase = divmod(output, new)
        exact = period * old + phase * old / new
        low, high = int(exact - 7 * old / lower) - 1, int(exact + 7 * old / lower) + 2
        place = np.arange(max(0, low), min(len(values), high))
        turned = np.float32(-phase) / np.float32(new)
        t = np.clip(((place - period * old) / old + float(turned)) * lower, -6, 6) * np.pi
        sinc = np.divide(np.sin(t), t, out=np.ones_like(t), where=t != 0)
        weights = sinc * np.cos(t / 12) ** 2 * (lower / old)
        found.append(values[place] @ weights)
    return np.asarray(found)


def written(values: Numbers, kind: str, order: str = "<") -> tuple[bytes, Numbers]:
    """The bytes of ``(n, channels)`` values as a type of `WIDTHS`, and what they stand for."""
    if kind[0] == "f":
        stored = values.astype(f"{order}f{WIDTHS[kind]}")
        return stored.tobytes(), stored.astype(np.float64)
    scale = 2.0 ** (8 * WIDTHS[kind] - 1)
    units = np.clip(np.round(values * scale), -scale, scale - 1)
    if kind == "u8":
        return (units + 128).astype(np.uint8).tobytes(), units / scale
    wide = units.astype(f"{order}i4")
    data = wide.tobytes()
    if WIDTHS[kind] < 4:
        unused = slice(0, WIDTHS[kind]) if order == "<" else slice(4 - WIDTHS[kind], 4)
        data = np.frombuffer(data, np.uint8).reshape(-1, 4)[:, unused].tobytes()
    return data, units / scale


def form(
    channels: int, rate: int, kind: str = "s16", code: int | None = None,
    bits: int | None = None, extensible: bool = False,
) -> bytes:  # fmt: skip
    """What a WAV's ``fmt`` chunk says of its samples."""
    width = WIDTHS[kind]
    block, own = channels * width % 2**16, 3 if kind[0] == "f" else 1
    said = 8 * width if bits is None else bits
    code = own if code is None else code
    head = struct.pack(
        "<HHIIHH", 0xFFFE if extensible else code, channels, rate,
        rate * block % 2**32, block, said,
    )  # fmt: skip
    if extensible:
        guid = bytes.fromhex("000000001000800000aa00389b71")
        head += struct.pack("<HHIH", 22, said, 0, code) + guid
    return head


def riff(
    form: bytes, data: bytes, length: int | None = None, whole: int | None = None,
    before: bytes = b"", after: bytes = b"", name: bytes = b"RIFF",
) -> bytes:  # fmt: skip
    """A WAV file, whose lengths may be any."""
    size = struct.Struct("<I").pack
    chunks = b"fmt " + size(len(form)) + form + before
    chunks += b"data" + size(len(data) if length is None else length) + data + after
    return name + size(4 + len(chunks) if whole is None else whole) + b"WAVE" + chunks


def wav(values: Numbers, rate: int, kind: str = "s16") -> bytes:
    """A WAV file of ``(n, channels)`` values."""
    return riff(form(values.shape[1], rate, kind), written(values, kind)[0])


def encoded(
    values: Numbers, rate: int, container: str, codec: str, picture: bytes | None = None
) -> bytes:
    """A file that PyAV writes, perhaps with a ``picture`` of a frame beside the audio."""
    if codec not in av.codecs_available:
        pytest.skip(f"this build of PyAV has no {codec}")
    file = io.BytesIO()
    with av.open(file, "w", format=container) as output:
        stream = output.add_stream(codec, rate=rate)
        assert isinstance(stream, av.AudioStream)
        stream.layout = "mono" if values.shape[1] == 1 else "stereo"
        kind = stream.codec_context.codec.audio_formats
        assert kind is not None
        stream.format = kind[0].name
        if picture is not None:
            _add_picture(output, picture)
        resampler = av.AudioResampler(kind[0].name, stream.layout, rate)
        size = stream.codec_context.frame_size or 1024
        for start in range(0, len(values), size):
            part = np.ascontiguousarray(values[start : start + size].T, np.float32)
            frame = av.AudioFrame.from_ndarray(part, "fltp", stream.layout.name)
            frame.sample_rate, frame.pts = rate, start
            for converted in resampler.resample(frame):
                output.mux(stream.encode(converted))
        output.mux(stream.encode(None))
    return file.getvalue()


def _add_picture(output: av.container.OutputContainer, picture: bytes) -> None:
    stream = output.add_stream("png", rate=1)
    assert isinstance(stream, av.VideoStream)
    stream.width = stream.height = 16
    stream.pix_fmt = "rgb24"
    stream.disposition = av.stream.Disposition.attached_pic
    packet = av.Packet(picture)
    packet.stream = stream
    output.mux(packet)
