"""Audio in the files of data sets: in a cell of a row, in a file, or a stretch of one."""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np

from vlm2vec import Samples
from vlm2vec_evaluation.errors import EvaluationError
from vlm2vec_evaluation.layouts.source import Row, Source
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.preprocess.audio import OPTIONS, Floats, measure_audio
from vlm2vec_service.preprocess.resample import RATE, resample
from vlm2vec_service.settings import Limits

if TYPE_CHECKING:
    from vlm2vec.audio import AudioLike

UNREADABLE = (OSError, ValueError, av.FFmpegError)
"""What opening and decoding a file raises, also one without audio."""
LIMITS = Limits(max_audio_bytes=1 << 30)
"""A recording may be larger than what is sent of it."""


def recording(source: Source, row: Row, where: str) -> "AudioLike":
    """Finds the audio of a row: the bytes or samples in its cell ``audio``, the bytes in
    ``audio_bytes``, or a file.

    The file is that of the path in the row, which starts at the data set's folder, or that of the
    option ``file``, in which ``{key}`` is the row's value. Raises `EvaluationError` if the row has
    none of these.
    """
    cell = row.get("audio")
    found: Row = cell if isinstance(cell, dict) else {"bytes": row.get("audio_bytes")}
    if found.get("bytes"):
        return bytes(found["bytes"])
    if found.get("array") is not None:
        return decoded(found)
    if path := found.get("path") or row.get("audio_path") or row.get("path"):
        return (source.path if source.path.is_dir() else source.path.parent) / str(path)
    try:
        pattern = source.data_set.options["file"]
        return source.suite.root / str(pattern).format_map(row)
    except KeyError:
        raise EvaluationError(f"{where}: there is no audio; there are {', '.join(row)}") from None


def decoded(audio: Mapping[str, Any]) -> Samples:
    """Takes an audio as ``datasets`` decodes it, whose channels come before its samples."""
    return Samples(np.asarray(audio["array"], np.float32).T, int(audio["sampling_rate"]))


@functools.lru_cache(64)  # opening takes longer than one would think, and each pass asks again
def length(path: Path) -> float:
    """Returns the seconds of a recording. Raises `EvaluationError`."""
    try:
        with av.open(str(path), options=OPTIONS) as container:
            (stream, *_) = container.streams.audio
            if stream.duration is None or stream.time_base is None:
                raise EvaluationError(f"{path}: it does not say how long it is")
            return float(stream.duration * stream.time_base)
    except UNREADABLE as error:
        raise EvaluationError(f"{path}: {error}") from error


def cut(path: Path, start: float, end: float) -> Samples:
    """Reads a recording from ``start`` to ``end``, in seconds, as one channel at the models' rate.

    It is cut before it is resampled, as upstream does. Raises `EvaluationError`.
    """
    samples, rate = _mixed(path)
    first = int(start * rate)
    return Samples(resample(samples[first : first + int((end - start) * rate)], rate), RATE)


@functools.lru_cache(1)  # it is asked for stretch by stretch, and for each query of a recording
def whole(path: Path) -> Samples:
    """Reads all of a recording, as `cut` does."""
    samples, rate = _mixed(path)
    return Samples(resample(samples, rate), RATE)


@functools.lru_cache(1)
def _mixed(path: Path) -> tuple[Floats, int]:
    """Decodes a recording: the mean of its channels, and its rate."""
    try:
        audio = measure_audio(path.read_bytes(), LIMITS)
        return np.concatenate(list(audio.decode())), audio.rate
    except (OSError, InvalidInputError) as error:
        raise EvaluationError(f"{path}: {error}") from error
