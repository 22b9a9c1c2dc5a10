"""Turns the packed vectors of messages into arrays."""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from vlm2vec.errors import Internal
from vlm2vec.v1 import embedding_pb2 as pb

Array: TypeAlias = npt.NDArray[np.float32]
"""One float32 vector ``(dim,)``, or several ``(n, dim)``."""


def to_array(vector: pb.Vector) -> Array:
    """Returns the components as a writable float32 array ``(dimension,)``.

    int8 gives ``scale / 127`` times the bytes. binary gives 1 where the component was positive and
    -1 elsewhere, so that a dot product is the dimension less twice the Hamming distance; the bits
    are ``numpy.packbits(array > 0)``. Raises `Internal` where the bytes do not fit the dimension.
    """
    return np.array(_components(vector), np.float32)


def read_vectors(messages: Sequence[pb.Embedding], out: Array) -> None:
    """Writes the components of ``n`` vectors to ``out``, float32 ``(n, dimension)``.

    Raises `Internal` where they are not as many as ``out`` has, and where `to_array` does.
    """
    for message, row in zip(messages, out, strict=True):
        components = _components(message.vector)
        if len(components) != len(row):
            raise Internal(f"a vector has {len(components)} components, and another {len(row)}")
        row[:] = components


def _components(vector: pb.Vector) -> npt.NDArray[Any]:
    """Returns the components in some number format of numpy; they may be read-only."""
    if vector.dtype not in _DECODERS:
        raise Internal(f"a vector of the unknown number format {vector.dtype}")
    size, decode = _DECODERS[vector.dtype]
    data, dimension = vector.data, vector.dimension
    if not dimension or len(data) != size(dimension):
        raise Internal(
            f"a vector of {len(data)} bytes, where {dimension} components of "
            f"{pb.Dtype.Name(vector.dtype)} have {size(dimension)}"
        )
    return decode(data, vector)


def _float32(data: bytes, vector: pb.Vector) -> npt.NDArray[Any]:
    return np.frombuffer(data, "<f4")


def _float16(data: bytes, vector: pb.Vector) -> npt.NDArray[Any]:
    return np.frombuffer(data, "<f2")


def _int8(data: bytes, vector: pb.Vector) -> npt.NDArray[Any]:
    return np.frombuffer(data, np.int8).astype(np.float32) * np.float32(vector.scale / 127)


def _binary(data: bytes, vector: pb.Vector) -> npt.NDArray[Any]:
    bits = np.unpackbits(np.frombuffer(data, np.uint8), count=vector.dimension)
    return bits.astype(np.float32) * np.float32(2) - np.float32(1)


_Decoder: TypeAlias = Callable[[bytes, pb.Vector], npt.NDArray[Any]]
# For each format: the bytes that so many components take, and how to read them.
_DECODERS: dict[int, tuple[Callable[[int], int], _Decoder]] = {
    pb.DTYPE_UNSPECIFIED: (lambda dimension: 4 * dimension, _float32),
    pb.DTYPE_FLOAT32: (lambda dimension: 4 * dimension, _float32),
    pb.DTYPE_FLOAT16: (lambda dimension: 2 * dimension, _float16),
    pb.DTYPE_INT8: (lambda dimension: dimension, _int8),
    pb.DTYPE_BINARY: (lambda dimension: -(-dimension // 8), _binary),
}
