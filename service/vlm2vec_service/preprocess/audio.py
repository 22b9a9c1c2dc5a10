"""Audio, as a file that PyAV decodes or as samples, to one channel of 16,000 samples a second."""

import dataclasses
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.audio_containers import frames_end
from vlm2vec_service.preprocess.containers import CUT_OFF, UNDECODABLE, check_codec, is_cut_off
from vlm2vec_service.preprocess.resample import RATE, resampled
from vlm2vec_service.preprocess.stop import NEVER, Stop, StoppableMedia
from vlm2vec_service.settings import Limits

FORMATS = "wav,flac,mp3,ogg,aac,aiff,mov,matroska,avi,mpegts,mpeg,flv,asf"
"""The containers that are read, by FFmpeg's names; of those of a film, its sound."""
CODECS = {
    "aac", "ac3", "adpcm_ima_wav", "adpcm_ms", "alac", "eac3", "flac", "mp2", "mp3", "opus",
    "pcm_alaw", "pcm_f32be", "pcm_f32le", "pcm_f64be", "pcm_f64le", "pcm_mulaw", "pcm_s16be",
    "pcm_s16le", "pcm_s24be", "pcm_s24le", "pcm_s32be", "pcm_s32le", "pcm_s8", "pcm_u8", "vorbis",
    "wmav1", "wmav2",
}  # fmt: skip
OPTIONS = {"format_whitelist": FORMATS, "max_probe_packets": "1", "max_size": "65536"}
"""FFmpeg would search a WAV for other codecs, which takes longer than to decode it, and would read
it in pieces so small that most of the time goes into what is done for each."""
RATES = (1_000, 768_000)
"""The lowest and the highest rate that is resampled."""
SAMPLES: dict[str, tuple[type[np.number[Any]], int]] = {
    "u8": (np.uint8, 2**7),
    "s16": (np.int16, 2**15),
    "s32": (np.int32, 2**31),
    "flt": (np.float32, 1),
    "dbl": (np.float64, 1),
}
"""The type of a format's samples, by FFmpeg's name, and which of them is 1.0."""
LOUDEST = 1e12
"""The loudest sample, of which the power of a frame still is a number in single precision."""
EMPTY = "the audio holds no sample"

Floats = npt.NDArray[np.float32]
Samples = npt.NDArray[Any]


@dataclass(frozen=True)
class Audio:
    """An audio that has been measured and is not decoded yet.

    ``rate`` is its samples a second, ``field`` where it stands in the input, for errors. ``decode``
    starts over and gives it piece by piece, mixed to one channel of ``rate``: float32 ``(n,)``.
    """

    rate: int
    field: str
    decode: Callable[[], Generator[Floats]] = dataclasses.field(repr=False)

    def samples(self, seconds: float) -> Floats:
        """Decodes its first ``seconds``: float32 ``(n,)`` at 16,000 a second.

        What follows them is not decoded. Raises `InvalidInputError` that names the field of an
        audio that is damaged, cut off before or not of numbers, and what `Stop.check` does.
        """
        most, taken, count = int(seconds * RATE), [np.zeros(0, np.float32)], 0
        with closing(self.decode()) as pieces, np.errstate(invalid="ignore", over="ignore"):
            for piece in resampled(pieces, self.rate):
                taken.append(piece[: most - count])
                count += len(taken[-1])
                if count >= most:
                    break
        found = np.concatenate(taken)
        if not count:
            raise InvalidInputError(self.field, EMPTY)
        if not np.abs(found).max() <= LOUDEST:
            raise InvalidInputError(
                self.field, f"a sample is no number, or beyond {LOUDEST:g} times full scale"
            )
        return found


def measure_audio(data: bytes, limits: Limits, field: str = "audio", stop: Stop = NEVER) -> Audio:
    """Opens a file and decodes its first frame, which tells its rate and channels.

    Of a film it is the first sound track. Raises `InvalidInputError` that names ``field``, also for
    a file that is cut off, and what `Stop.check` does.
    """
    if len(data) > limits.max_audio_bytes:
        raise InvalidInputError(
            field, f"{len(data)} bytes are more than max_audio_bytes, {limits.max_audio_bytes}"
        )
    if data[:4] == b"RIFX":
        raise InvalidInputError(field, "a WAV with the big end first, which FFmpeg reads as noise")
    with _opened(data, stop, field) as (container, stream):
        if is_cut_off(data, container.format.name):
            raise InvalidInputError(field, CUT_OFF)
        first = next(_frames(container, stream, stop, field), None)
        if first is None:
            raise InvalidInputError(field, EMPTY)
        rate = first.sample_rate
        _check(rate, first.layout.nb_channels, limits, field)
        sound = data[: frames_end(data)] if container.format.name == "mp3" else data

    def decode() -> Generator[Floats]:
        with _opened(sound, stop, field) as (container, stream):
            for frame in _frames(container, stream, stop, field):
                if frame.sample_rate != rate:
                    raise InvalidInputError(
                        field, f"its rate changes from {rate} to {frame.sample_rate} Hz"
                    )
                _check(rate, frame.layout.nb_channels, limits, field)
                yield _heard(frame)

    return Audio(rate, field, decode)


def raw_audio(
    samples: Floats | npt.NDArray[np.int16], rate: int, limits: Limits, field: str = "audio"
) -> Audio:
    """Takes samples as they are: float32 or int16 ``(n, channels)`` at ``rate`` a second.

    Raises `InvalidInputError` that names ``field``.
    """
    _check(rate, samples.shape[1], limits, field)
    if not len(samples):
        raise InvalidInputError(field, EMPTY)
    _, full_scale = SAMPLES["s16" if samples.dtype == np.int16 else "flt"]

    def decode() -> Generator[Floats]:
        for start in range(0, len(samples), rate):
            yield _mixed(samples[start : start + rate].T, full_scale)

    return Audio(rate, field, decode)


def _check(rate: int, channels: int, limits: Limits, field: str) -> None:
    if not RATES[0] <= rate <= RATES[1]:
        raise InvalidInputError(field, f"a rate of {rate} Hz is not in {RATES[0]} to {RATES[1]}")
    if not 1 <= channels <= limits.max_audio_channels:
        raise InvalidInputError(
            field,
            f"{channels} channels are not in 1 to max_audio_channels, {limits.max_audio_channels}",
        )


def _heard(frame: av.AudioFrame) -> Floats:
    """The samples of a frame, mixed to one channel."""
    dtype, full_scale = SAMPLES[frame.format.name.removesuffix("p")]
    if frame.format.is_planar:
        planes = [np.frombuffer(memoryview(plane), dtype, frame.samples) for plane in frame.planes]
        return _mixed(planes, full_scale)
    channels = frame.layout.nb_channels
    samples = np.frombuffer(memoryview(frame.planes[0]), dtype, frame.samples * channels)
    return _mixed(samples.reshape(-1, channels).T, full_scale)


def _mixed(planes: Sequence[Samples] | Samples, full_scale: int) -> Floats:
    """The mean over channels, ``(n,)`` each, where ``full_scale`` becomes 1.0."""
    total: Floats = planes[0].astype(np.float32)
    for plane in planes[1:]:
        np.add(total, plane, out=total, casting="same_kind")
    if planes[0].dtype == np.uint8:
        total -= np.float32(full_scale * len(planes))
    total /= np.float32(full_scale * len(planes))
    return total


@contextmanager
def _opened(
    data: bytes, stop: Stop, field: str
) -> Iterator[tuple[av.container.InputContainer, av.AudioStream]]:
    """Opens a file and its first sound track; whatever PyAV raises is the input's fault."""
    try:
        file = StoppableMedia(data, stop, field)
        # Of tags nothing is read, and many are in no encoding that PyAV could tell.
        with av.open(file, "r", options=OPTIONS, metadata_errors="ignore") as container:
            if not container.streams.audio:
                raise InvalidInputError(field, "the file has no audio stream")
            stream = container.streams.audio[0]
            check_codec(stream, CODECS, field)
            yield container, stream
    except UNDECODABLE as error:
        raise InvalidInputError(field, f"undecodable audio: {error}") from error


def _frames(
    container: av.container.InputContainer, stream: av.AudioStream, stop: Stop, field: str
) -> Iterator[av.AudioFrame]:
    """Decodes ``stream``, until it is to stop."""
    count = 0
    for packet in container.demux(stream):
        stop.check(field)
        for frame in packet.decode():
            count += frame.samples
            yield frame
    # Of the containers without lengths of their own, this one says how many samples there are.
    if container.format.name == "flac" and count < (stream.duration or 0):
        raise InvalidInputError(field, CUT_OFF)
