"""Odd and malformed audio files: each gives the right samples, or an error that names its field."""

import contextlib
import random
import struct

import numpy as np
import pytest

from tests.unit import recordings
from tests.unit.pictures import gif_of_huge_frames, png
from tests.unit.recordings import Numbers, encoded, form, riff, tones, wav, written
from tests.unit.test_cut_off_video import film
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.audio import measure_audio
from vlm2vec_service.settings import Limits

RATE = 8000
TONES = tones(450, RATE)
DATA, STORED = written(TONES, "s16")
FORM = form(1, RATE)
BYTES = bytes(range(256))


def changed(number: float, place: int = 300) -> Numbers:
    """The tones with a number in place of one."""
    values = TONES.copy()
    values[place] = number
    return values


def mu_law() -> Numbers:
    """What ITU-T G.711 says of the 256 bytes of mu-law."""
    code = ~np.arange(256) & 0xFF
    size = ((2 * (code & 15) + 33) << (code >> 4 & 7)) - 33
    return np.where(code & 0x80, -size, size)[:, None] * 4 / 2**15


def a_law() -> Numbers:
    """What it says of those of A-law."""
    code = np.arange(256) ^ 0x55
    exponent = code >> 4 & 7
    size = np.where(
        exponent == 0, 2 * (code & 15) + 1, (2 * (code & 15) + 33) << np.maximum(exponent - 1, 0)
    )
    return np.where(code & 0x80, size, -size)[:, None] * 8 / 2**15


def typed(kind: str, values: Numbers = TONES) -> tuple[bytes, Numbers]:
    """A WAV file of samples of a type, and the values they stand for."""
    data, stored = written(values, kind)
    return riff(form(values.shape[1], RATE, kind), data), stored


def rf64(length: int) -> bytes:
    """A WAV with lengths of 64 bits."""
    sizes = struct.pack("<4sIQQQI", b"ds64", 28, 0, length, len(DATA) // 2, 0)
    plain = riff(FORM, DATA, length=2**32 - 1, whole=2**32 - 1, name=b"RF64")
    return plain[:12] + sizes + plain[12:]


def aiff(kind: str) -> tuple[bytes, Numbers]:
    data, stored = written(TONES, kind, ">")
    bits = 8 * recordings.WIDTHS[kind]
    rate = struct.pack(">HQ", 16383 + 12, RATE << 51)  # in extended precision
    common = struct.pack(">hIh", 1, len(TONES), bits) + rate
    chunks = b"COMM" + struct.pack(">I", len(common)) + common
    chunks += b"SSND" + struct.pack(">III", 8 + len(data), 0, 0) + data
    return b"FORM" + struct.pack(">I", 4 + len(chunks)) + b"AIFF" + chunks, stored


def chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)


LATIN = chunk(b"LIST", b"INFO" + chunk(b"INAM", "Überraschung".encode("latin-1")))
RATES = (1_000, 11_025, 16_000, 22_050, 44_101, 96_000, 192_000, 768_000)
GOOD: dict[str, tuple[bytes, Numbers, int]] = {
    **{f"{rate} Hz": (wav(STORED[:100], rate), STORED[:100], rate) for rate in RATES},
    **{
        f"{kind} samples": (*typed(kind), RATE)
        for kind in ("u8", "s16", "s24", "s32", "f32", "f64")
    },
    **{f"AIFF of {kind}": (*aiff(kind), RATE) for kind in ("s16", "s24", "s32")},
    "stereo": (*typed("s16", tones(450, RATE, 2)), RATE),
    "7.1": (*typed("s24", tones(450, RATE, 8)), RATE),
    "32 channels": (*typed("s16", tones(450, RATE, 32)), RATE),
    "louder than full scale": (*typed("f32", 40 * TONES), RATE),
    "numbers of integers": (*typed("f32", 32768 * TONES), RATE),
    "too quiet to hear": (*typed("f32", 1e-30 * TONES), RATE),
    "silence": (*typed("s16", 0 * TONES), RATE),
    "one sample": (*typed("s16", TONES[7:8]), RATE),
    "the fewest for a frame": (*typed("s16", TONES[:200]), RATE),
    "extensible": (riff(form(1, RATE, extensible=True), DATA), STORED, RATE),
    "extensible 7.1": (
        riff(form(8, RATE, extensible=True), written(tones(450, RATE, 8), "s16")[0]),
        written(tones(450, RATE, 8), "s16")[1], RATE,
    ),
    "mu-law": (riff(form(1, RATE, "u8", code=7), BYTES), mu_law(), RATE),
    "A-law": (riff(form(1, RATE, "u8", code=6), BYTES), a_law(), RATE),
    "written live": (riff(FORM, DATA, length=2**32 - 1, whole=2**32 - 1), STORED, RATE),
    "written live, length 0": (riff(FORM, DATA, length=0, whole=0), STORED, RATE),
    "written to a pipe": (riff(FORM, DATA, length=0x7FFFF000, whole=0x7FFFF024), STORED, RATE),
    "whole length 0": (riff(FORM, DATA, whole=0), STORED, RATE),
    "whole length too large": (riff(FORM, DATA, whole=10**9), STORED, RATE),
    "64-bit lengths": (rf64(len(DATA)), STORED, RATE),
    "less said than there is": (riff(FORM, DATA, length=500), STORED[:250], RATE),
    "tags before": (riff(FORM, DATA, before=chunk(b"LIST", b"INFO")), STORED, RATE),
    "tags in Latin-1 before": (riff(FORM, DATA, before=LATIN), STORED, RATE),
    "tags in Latin-1 behind": (riff(FORM, DATA, after=LATIN), STORED, RATE),
    "junk before": (riff(FORM, DATA, before=chunk(b"JUNK", bytes(28))), STORED, RATE),
    "noise behind": (riff(FORM, DATA, after=b"\xff" * 999), STORED, RATE),
    "tags cut off behind": (riff(FORM, DATA, after=LATIN)[:-5], STORED, RATE),
    "an odd byte": (riff(FORM, DATA + b"\x01"), STORED, RATE),
    "a longer form": (riff(FORM + bytes(10), DATA), STORED, RATE),
    "12 of 16 bits": (riff(form(1, RATE, bits=12), DATA), STORED, RATE),
}  # fmt: skip
"""Files, the values of their samples, and their rate."""

WHOLE = wav(TONES, RATE)
EXTENSIBLE = riff(form(1, RATE, extensible=True), DATA)
BAD: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "undecodable"),
    "a byte": (b"R", "undecodable"),
    "zeros": (bytes(5000), "undecodable"),
    "ones": (b"\xff" * 5000, "undecodable"),
    "noise": (random.Random(0).randbytes(5000), "undecodable"),
    "text": (b"no audio at all\n" * 300, "undecodable"),
    "a picture called .wav": (png(40, 40), "undecodable"),
    "a GIF": (gif_of_huge_frames(40, 3), "undecodable"),
    "a PDF": (b"%PDF-1.7\n" + bytes(500), "undecodable"),
    "a list of other files": (b"#EXTM3U\n#EXTINF:1,\nfile:///etc/passwd\n", "undecodable"),
    "a script of other files": (b"ffconcat version 1.0\nfile /etc/passwd\n", "undecodable"),
    "a page": (b"<html><body>Not found</body></html>", "undecodable"),
    "a film without sound": (film("mp4", "mpeg4", frames=3), "no audio stream"),
    "no sample": (riff(FORM, b""), "holds no sample"),
    "no chunk of samples": (riff(FORM, DATA)[:36], ""),
    "the head alone": (WHOLE[:12], ""),
    "half a form": (WHOLE[:30], ""),
    "half": (WHOLE[: len(WHOLE) // 2], "cut off"),
    "a byte short": (WHOLE[:-1], "cut off"),
    "extensible, cut in its form": (EXTENSIBLE[:50], ""),
    "another length of 1 GB": (riff(FORM, DATA, length=10**9), "cut off"),
    "64-bit lengths, cut off": (rf64(len(DATA) + 1), "cut off"),
    "64-bit lengths of exabytes": (rf64(2**63 - 1), "cut off"),
    "a chunk of 4 GB before": (riff(FORM, DATA, before=b"JUNK\xff\xff\xff\xff"), ""),
    "no form": (WHOLE[:12] + WHOLE[36:], ""),
    "an empty form": (riff(b"", DATA), ""),
    "AIFF, cut off": (aiff("s16")[0][:-1], "cut off"),
    "NaN": (typed("f32", changed(np.nan))[0], "a sample is no number"),
    "infinity": (typed("f32", changed(np.inf))[0], "a sample is no number"),
    "infinity in doubles": (typed("f64", changed(-np.inf))[0], "a sample is no number"),
    "beyond single precision": (typed("f64", changed(1e300))[0], "a sample is no number"),
    "beyond all loudness": (typed("f32", changed(1e30))[0], "a sample is no number"),
    "NaN at the start": (typed("f32", changed(np.nan, 0))[0], "a sample is no number"),
    "NaN at the end": (typed("f32", changed(np.nan, -1))[0], "a sample is no number"),
    "rate 0": (wav(TONES, 0), ""),
    "rate 1": (wav(TONES, 1), "1 Hz is not in 1000 to 768000"),
    "rate 999": (wav(TONES, 999), "999 Hz is not in 1000 to 768000"),
    "rate 768001": (wav(TONES, 768_001), "768001 Hz is not in 1000 to 768000"),
    "the highest rate there is": (wav(TONES, 2**32 - 1), ""),
    "no channel": (riff(form(0, RATE), DATA), ""),
    "33 channels": (
        typed("s16", tones(90, RATE, 33))[0],
        "33 channels are not in 1 to max_audio_channels, 32",
    ),
    "255 channels": (
        typed("s16", tones(90, RATE, 255))[0],
        "255 channels are not in 1 to max_audio_channels, 32",
    ),
    "65535 channels": (riff(form(65_535, RATE), bytes(2**18)), ""),
    "samples of 0 bits": (riff(form(1, RATE, bits=0), DATA), ""),
    "the big end first": (riff(FORM, DATA, name=b"RIFX"), "the big end first"),
    "samples of 64 bits": (riff(form(1, RATE, bits=64), DATA), "the codec pcm_s64le is none of"),
    "samples of 65535 bits": (riff(form(1, RATE, bits=65_535), DATA), ""),
    "a codec of GSM": (riff(form(1, RATE, code=0x31), DATA), "the codec"),
    "a codec that is none": (riff(form(1, RATE, code=0xABCD), DATA), "the codec unknown"),
    "MP3 that is none": (riff(form(1, RATE, code=0x55), DATA), "undecodable"),
    "an MP3's tag alone": (b"ID3\x04\0\0\0\0\x07\x76" + bytes(1014), "undecodable"),
    "an MP3's tag, cut off": (b"ID3\x04\0\0\x7f\x7f\x7f\x7f" + bytes(1014), ""),
    "Ogg without an end": (b"OggS" + bytes(500), ""),
    "FLAC that ends with its head": (b"fLaC" + bytes(40), ""),
}  # fmt: skip
"""Files, and what their error says."""


@pytest.mark.parametrize("name", GOOD)
def test_odd_file_gives_its_samples(name: str) -> None:
    data, values, rate = GOOD[name]
    expected = recordings.resampled(values.mean(axis=1), rate)
    found = measure_audio(data, Limits(), "audio").samples(300.0)
    assert len(found) == len(expected)
    loudest = abs(expected).max()
    np.testing.assert_allclose(found, expected, rtol=0, atol=4e-6 * loudest)


@pytest.mark.parametrize("name", BAD)
def test_bad_file_is_refused(name: str) -> None:
    data, problem = BAD[name]
    with pytest.raises(InvalidInputError) as refused:
        measure_audio(data, Limits(), "parts[2].audio").samples(300.0)
    assert refused.value.field == "parts[2].audio"
    assert problem in refused.value.problem


def ape(whole: bool) -> bytes:
    """An APE tag, which may have a head beside its foot."""
    item = struct.pack("<II", 5, 0) + b"TITLE\0tones"
    foot = struct.pack("<8sIIIQ", b"APETAGEX", 2000, len(item) + 32, 1, whole << 31)
    head = struct.pack("<8sIIIQ", b"APETAGEX", 2000, len(item) + 32, 1, 0xA0000000)
    return (head if whole else b"") + item + foot


NEWER, OLDER = b"ID3\x03\0\0\0\0\x07\x76" + bytes(1014), b"TAG" + bytes(125)
TAGS = {
    "ID3v2 before": (NEWER, b""),
    "ID3v2 behind": (b"", NEWER),
    "ID3v1": (b"", OLDER),
    "APE": (b"", ape(True)),
    "APE without its head": (b"", ape(False)),
    "APE and ID3v1": (b"", ape(True) + OLDER),
    "lyrics and ID3v1": (b"", b"LYRICSBEGININD0000200000011LYRICS200" + OLDER),
    "zeros": (b"", bytes(5000)),
}
"""What stands before and behind the frames of an MP3."""


@pytest.mark.parametrize("name", TAGS)
def test_mp3_is_the_same_with_tags(name: str) -> None:
    before, behind = TAGS[name]
    data = encoded(tones(9000, 44_100), 44_100, "mp3", "libmp3lame")
    expected = measure_audio(data, Limits()).samples(2.0)
    found = measure_audio(before + data + behind, Limits()).samples(2.0)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("byte", [b"\0", b"\x55"])
def test_mp3_of_which_half_is_gone_is_refused(byte: bytes) -> None:
    data = encoded(tones(90_000, 44_100), 44_100, "mp3", "libmp3lame")
    half = len(data) // 2
    with pytest.raises(InvalidInputError, match="undecodable"):
        measure_audio(data[:half] + byte * (len(data) - half), Limits()).samples(9.0)


@pytest.mark.parametrize(
    ("container", "codec"),
    [
        ("mp3", "libmp3lame"),
        ("flac", "flac"),
        ("ipod", "aac"),
        ("ogg", "libopus"),
        ("wav", "adpcm_ms"),
        ("aiff", "pcm_s16be"),
    ],
)
def test_damage_anywhere_is_an_error_or_audio(container: str, codec: str) -> None:
    """Whatever bytes are overwritten, nothing but `InvalidInputError` is raised."""
    choose = random.Random(1)
    data = encoded(tones(9600, 48_000), 48_000, container, codec)
    for changes in (1, 10, 100) * 6:
        damaged = bytearray(data)
        for _ in range(changes):
            damaged[choose.randrange(len(data))] = choose.randrange(256)
        with contextlib.suppress(InvalidInputError):
            found = measure_audio(bytes(damaged), Limits()).samples(300.0)
            assert np.isfinite(found).all()
