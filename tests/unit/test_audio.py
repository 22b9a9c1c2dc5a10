"""Files and samples of audio to 16,000 samples a second, and what is refused."""

import numpy as np
import pytest

from tests.unit import recordings
from tests.unit.pictures import png
from tests.unit.recordings import Numbers, encoded, tones, wav
from vlm2vec_service.errors import DeadlineError, InvalidInputError
from vlm2vec_service.preprocess import audio_containers
from vlm2vec_service.preprocess.audio import Audio, measure_audio, raw_audio
from vlm2vec_service.preprocess.containers import is_cut_off
from vlm2vec_service.preprocess.stop import Stop
from vlm2vec_service.settings import Limits

LIMITS = Limits()
ENOUGH = 300.0
FILES = [
    ("flac", "flac"),
    ("mp3", "libmp3lame"),
    ("ogg", "libopus"),
    ("ogg", "flac"),
    ("ipod", "aac"),
    ("ipod", "alac"),
    ("adts", "aac"),
    ("aiff", "pcm_s16be"),
    ("aiff", "pcm_s24be"),
    ("wav", "pcm_s24le"),
    ("wav", "adpcm_ms"),
    ("wav", "adpcm_ima_wav"),
    ("wav", "libmp3lame"),
    ("webm", "libopus"),
    ("matroska", "pcm_s16le"),
    ("mov", "pcm_s24be"),
    ("mp4", "aac"),
    ("avi", "libmp3lame"),
    ("mpegts", "aac"),
    ("flv", "aac"),
]
"""Containers and codecs."""
LATE = {"adts", "avi", "mpegts", "flv"}
"""Containers that do not say how much the encoder put before the first sample."""


def heard(data: bytes, seconds: float = ENOUGH) -> recordings.Floats:
    return measure_audio(data, LIMITS, "audios[0]").samples(seconds)


def refusal(data: bytes) -> str:
    with pytest.raises(InvalidInputError) as refused:
        heard(data)
    assert refused.value.field == "audios[0]"
    return refused.value.problem


def sent(values: Numbers, rate: int) -> Audio:
    return raw_audio(values.astype(np.float32), rate, LIMITS, "audios[0]")


@pytest.mark.parametrize(("container", "codec"), FILES)
def test_files_are_decoded(container: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else 44_100
    values = tones(rate // 2, rate, 2)
    found = heard(encoded(values, rate, container, codec))
    expected = sent(values, rate).samples(ENOUGH)
    assert found.dtype == np.float32
    if container in LATE or (container, codec) == ("wav", "libmp3lame"):
        # Correlated, because they start late.
        shifted = np.correlate(found, expected, "full")
        start = max(0, int(shifted.argmax()) - len(expected) + 1)
        found = found[start:]
    common = slice(400, min(len(found), len(expected)) - 400)
    assert common.stop > 7000
    assert np.corrcoef(found[common], expected[common])[0, 1] > 0.98


@pytest.mark.parametrize(("container", "codec"), FILES)
def test_file_that_is_cut_off_is_refused(container: str, codec: str) -> None:
    rate = 48_000 if codec == "libopus" else 44_100
    data = encoded(tones(rate // 2, rate, 2), rate, container, codec)
    for percent in (1, 5, 20, 50, 90, 99):
        assert refusal(data[: len(data) * percent // 100 | 1])


def test_flac_that_ends_between_two_frames_is_refused() -> None:
    data = encoded(tones(44_100, 44_100), 44_100, "flac", "flac")
    starts = [place for place in range(86, len(data)) if data[place : place + 2] == b"\xff\xf8"]
    assert "cut off" in refusal(data[: starts[len(starts) // 2]])


@pytest.mark.parametrize("container", ["wav", "flac", "mp3", "ogg", "ipod"])
def test_head_is_that_of_the_whole_file(container: str) -> None:
    codec = {"wav": "pcm_s16le", "flac": "flac", "mp3": "libmp3lame", "ogg": "libopus"}
    data = encoded(tones(120_000, 48_000), 48_000, container, codec.get(container, "aac"))
    whole = heard(data)
    for seconds in (0.025, 0.7, 1.0, 1.3):
        assert np.array_equal(heard(data, seconds), whole[: int(seconds * 16_000)])


class Counting(Stop):
    """Counts how often decoding could have stopped."""

    checks = 0

    def check(self, field: str) -> None:
        self.checks += 1
        super().check(field)


def test_no_more_is_decoded_than_is_taken() -> None:
    data = encoded(tones(16_000 * 60, 16_000), 16_000, "flac", "flac")
    stop = Counting()
    assert len(measure_audio(data, LIMITS, stop=stop).samples(1.0)) == 16_000
    few = stop.checks
    measure_audio(data, LIMITS, stop=stop).samples(ENOUGH)
    assert few < 30 < stop.checks / 10


def test_long_samples_are_mixed_as_they_are_needed() -> None:
    hours = np.broadcast_to(np.float32(0.5), (100_000 * 3600 * 24, 8))
    found = raw_audio(hours, 96_000, LIMITS).samples(1.5)
    assert len(found) == 24_000
    np.testing.assert_allclose(found[100:], 0.5, atol=1e-3)


def test_decoding_stops_at_the_deadline() -> None:
    stop = Stop()
    audio = measure_audio(wav(tones(8000, 8000), 8000), LIMITS, stop=stop)
    stop.cancel()
    with pytest.raises(DeadlineError):
        audio.samples(ENOUGH)


def test_samples_are_mixed_to_their_mean_before_they_are_resampled() -> None:
    values = tones(4000, 44_100, 3)
    expected = recordings.resampled(values.mean(axis=1), 44_100)
    np.testing.assert_allclose(sent(values, 44_100).samples(ENOUGH), expected, atol=1e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_samples_that_are_no_loudness_are_refused(bad: float) -> None:
    values = tones(4000, 8000, 2)
    values[1000, 1] = bad
    with pytest.raises(InvalidInputError, match=r"audios\[0\]: a sample is no number"):
        sent(values, 8000).samples(ENOUGH)
    assert len(sent(values, 8000).samples(0.1)) == 1600  # what is not taken does not matter


@pytest.mark.parametrize(
    ("shape", "rate", "problem"),
    [
        ((0, 1), 8000, "no sample"),
        ((9, 0), 8000, "0 channels"),
        ((9, 33), 8000, "max_audio_channels, 32"),
        ((9, 1), 999, "999 Hz"),
        ((9, 1), 768_001, "768001 Hz"),
    ],
)
def test_samples_of_no_audio_are_refused(shape: tuple[int, int], rate: int, problem: str) -> None:
    with pytest.raises(InvalidInputError, match=problem):
        sent(np.zeros(shape), rate)


def test_files_have_a_limit_of_bytes() -> None:
    data = wav(tones(500, 8000), 8000)
    limits = Limits(max_audio_bytes=1000)
    with pytest.raises(InvalidInputError, match="1044 bytes are more than max_audio_bytes, 1000"):
        measure_audio(data, limits)


def test_opening_can_stop_as_well() -> None:
    samples = recordings.written(tones(9, 8000), "s16")[0]
    many = recordings.riff(recordings.form(1, 8000), samples, before=b"JUNK\0\0\0\0" * 100_000)
    stop = Counting()
    assert len(measure_audio(many, LIMITS, stop=stop).samples(ENOUGH)) == 18
    assert stop.checks > 20
    stop.cancel()
    with pytest.raises(DeadlineError):
        measure_audio(many, LIMITS, stop=stop)


def test_chunks_are_walked_so_far_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = b"RIFF\xff\xff\xff\xffWAVE" + b"JUNK\0\0\0\0" * 50
    assert is_cut_off(chunks, "wav")
    monkeypatch.setattr(audio_containers, "MOST_ELEMENTS", 20)
    assert not is_cut_off(chunks, "wav")


@pytest.mark.parametrize(("container", "codec"), [("mp3", "libmp3lame"), ("flac", "flac")])
def test_cover_is_passed_over(container: str, codec: str) -> None:
    values = tones(20_000, 44_100)
    plain = encoded(values, 44_100, container, codec)
    covered = encoded(values, 44_100, container, codec, picture=png(16, 16))
    assert b"IHDR" in covered
    assert np.array_equal(heard(covered), heard(plain))
