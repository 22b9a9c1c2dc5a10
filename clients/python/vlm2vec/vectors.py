"""Turns the packed vectors of messages into arrays."""

from collections.abc import Callable
from typing import TypeAlias

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
    if vector.dtype not in _DECODERS:
        raise Internal(f"a vector of the unknown number format {vector.dtype}")
    size, decode = _DECODERS[vector.dtype]
    if not vector.dimension or len(vector.data) != size(vector.dimension):
        raise Internal(
            f"a vector of {len(vector.data)} bytes, where {vector.dimension} components of "
            f"{pb.Dtype.Name(vector.dtype)} have {size(vector.dimension)}"
        )
    return decode(vector)


def _float32(vector: pb.Vector) -> Array:
    return np.frombuffer(vector.data, "<f4").astype(np.float32)


def _float16(vector: pb.Vector) -> Array:
    return np.frombuffer(vector.data, "<f2").astype(np.float32)


def _int8(vector: pb.Vector) -> Array:
    return np.frombuffer(vector.data, np.int8).astype(np.float32) * np.float32(vector.scale / 127)


def _binary(vector: pb.Vector) -> Array:
    bits = np.unpackbits(np.frombuffer(vector.data, np.uint8), count=vector.dimension)
    return bits.astype(np.float32) * np.float32(2) - np.float32(1)


# For each format: the bytes that so many components take, and how to read them.
_DECODERS: dict[int, tuple[Callable[[int], int], Callable[[pb.Vector], Array]]] = {
    pb.DTYPE_UNSPECIFIED: (lambda dimension: 4 * dimension, _float32),
    pb.DTYPE_FLOAT32: (lambda dimension: 4 * dimension, _float32),
    pb.DTYPE_FLOAT16: (lambda dimension: 2 * dimension, _float16),
    pb.DTYPE_INT8: (lambda dimension: dimension, _int8),
    pb.DTYPE_BINARY: (lambda dimension: -(-dimension // 8), _binary),
}
