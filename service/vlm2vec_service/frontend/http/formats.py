"""Vectors in the formats that embedding APIs have in JSON."""

import base64
from typing import Any

import numpy as np

from vlm2vec.v1 import embedding_pb2 as pb


def in_json(vector: pb.Vector, format: str) -> Any:
    """What stands in JSON for a float32 ``vector``, as a string or what orjson makes a list of.

    ``format`` is ``float``; ``base64`` of little-endian float32; or ``binary`` or ``ubinary``: one
    bit a component, 1 where it is positive, the first in the highest bit of a number that counts
    from -128 or from 0.
    """
    if format == "base64":
        return base64.b64encode(vector.data).decode()
    values = np.frombuffer(vector.data, "<f4")
    if format == "float":
        return values
    bits = np.packbits(values > 0)
    return bits if format == "ubinary" else (bits.astype(np.int16) - 128).astype(np.int8)
