"""Turns audios into the messages that travel: files as they are, samples with their rate."""

import operator
import os
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vlm2vec.errors import InvalidInput
from vlm2vec.fetch import Limits
from vlm2vec.media import FilePath, file_bytes
from vlm2vec.v1 import embedding_pb2 as pb


@dataclass(frozen=True, eq=False)
class Samples:
    """Sound as numbers, such as a microphone or ``soundfile.read`` gives it."""

    array: npt.NDArray[Any]
    """The samples ``(n,)`` or ``(n, channels)``: int16, or floats within -1 and 1, which travel as
    float32."""
    rate: int
    """How many there are in a second, of each channel."""


AudioLike: TypeAlias = FilePath | bytes | Samples
"""A path, a URL or data URI, an encoded file, or `Samples`."""


def audio(source: AudioLike, field: str, limits: Limits) -> pb.Audio:
    """Returns the message for an audio.

    Raises `InvalidInput`, naming ``field``, where the file cannot be read or the samples are of
    another type or shape, and TypeError for anything else.
    """
    if isinstance(source, Samples):
        return pb.Audio(samples=_packed(source, field))
    if isinstance(source, bytes | str | os.PathLike):
        return pb.Audio(file=file_bytes(source, field, limits))
    raise TypeError(
        f"{field} is {type(source).__name__}, which is none of: the path or URL of an audio (str, "
        "pathlib.Path), its encoded file (bytes), vlm2vec.Samples(array, rate)"
    )


def _packed(samples: Samples, field: str) -> pb.Samples:
    array = np.asarray(samples.array)
    is_float = array.dtype.kind == "f"
    if array.ndim not in (1, 2) or not (is_float or array.dtype.str[1:] == "i2"):
        raise InvalidInput(
            f"{field}: not float or int16 (n,) or (n, channels) but {array.dtype} {array.shape}",
            field=field,
        )
    rate = operator.index(samples.rate)
    if not 0 < rate < 2**32:
        raise InvalidInput(f"{field}: the rate is {rate} samples a second", field=field)
    return pb.Samples(
        data=np.ascontiguousarray(array, "<f4" if is_float else "<i2").tobytes(),
        format=pb.SAMPLE_FORMAT_FLOAT32 if is_float else pb.SAMPLE_FORMAT_INT16,
        rate=rate,
        channels=1 if array.ndim == 1 else array.shape[1],
    )
