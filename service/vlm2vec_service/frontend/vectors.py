"""Vectors as bytes, in the format that the caller asked for."""

import numpy as np
import numpy.typing as npt

from vlm2vec.v1 import embedding_pb2 as pb


def encode_vector(
    vector: npt.NDArray[np.float32], options: pb.OutputOptions, unit: bool, message: pb.Vector
) -> None:
    """Cuts ``vector``, float32 ``(dim,)``, to ``options.dimensions``, normalises again if it is to
    be ``unit``, and packs it little-endian into ``message``."""
    if options.dimensions:
        vector = vector[: options.dimensions]
        if unit:
            vector = vector / max(float(np.linalg.norm(vector)), 1e-12)
    dtype = options.dtype or pb.DTYPE_FLOAT32
    scale = 0.0
    if dtype == pb.DTYPE_FLOAT32:
        data = vector.astype("<f4", copy=False).tobytes()
    elif dtype == pb.DTYPE_FLOAT16:
        data = vector.astype("<f2").tobytes()
    elif dtype == pb.DTYPE_INT8:
        scale = float(np.abs(vector).max()) or 1.0
        data = np.rint(vector * (127 / scale)).astype(np.int8).tobytes()
    else:
        data = np.packbits(vector > 0).tobytes()
    message.data, message.dtype = data, dtype
    message.dimension, message.scale = len(vector), scale
