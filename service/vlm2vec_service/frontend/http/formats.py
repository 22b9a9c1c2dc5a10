"""Vectors in the formats that embedding APIs have in JSON."""

import base64
from collections.abc import Callable

import numpy as np
import orjson
from fastapi import Response

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.frontend.parsing import parsed


async def written(write: Callable[[], bytes], answer: pb.EmbedResponse) -> Response:
    """The response whose JSON ``write`` makes of the vectors of ``answer``: in a thread if they are
    many. It has to make it of what `in_json` gives, vector by vector."""
    size = sum(len(item.vector.data) for item in answer.embeddings)
    return Response(await parsed(write, size), media_type="application/json")


def in_json(vector: pb.Vector, format: str) -> str | orjson.Fragment:
    """What stands in JSON for a float32 ``vector``: a string, or a list that is written already.

    ``format`` is ``float``; ``base64`` of little-endian float32; or ``binary`` or ``ubinary``: one
    bit a component, 1 where it is positive, the first in the highest bit of a number that counts
    from -128 or from 0.
    """
    if format == "base64":
        return base64.b64encode(vector.data).decode()
    values = np.frombuffer(vector.data, "<f4")
    if format != "float":
        values = np.packbits(values > 0)
    if format == "binary":
        values = (values.astype(np.int16) - 128).astype(np.int8)
    return orjson.Fragment(orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY))
