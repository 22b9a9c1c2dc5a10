"""Made-up vectors, and inputs that have them."""

import hashlib
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from vlm2vec.v1 import embedding_pb2 as pb

DIMENSION = 12


def vector_of(message: pb.Input) -> npt.NDArray[np.float32]:
    """The unit vector, float32 ``(12,)``, that the server has for an input."""
    digest = hashlib.sha256(message.SerializeToString(deterministic=True)).digest()
    vector = np.random.default_rng(list(digest)).standard_normal(DIMENSION)
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def text(words: str, instruction: str = "") -> pb.Input:
    """The message for a text."""
    return pb.Input(instruction=instruction, parts=[pb.Part(text=words)])


def texts(count: int) -> Iterator[str]:
    """Different texts."""
    return (f"text {index}" for index in range(count))


def packed(vector: npt.NDArray[np.float32], output: pb.OutputOptions) -> pb.Vector:
    """The vector as ``output`` wants it."""
    if output.dimensions:
        vector = vector[: output.dimensions]
        vector = vector / np.linalg.norm(vector)
    if output.HasField("normalize") and not output.normalize:
        vector = vector * np.float32(3)
    scale = 0.0
    match output.dtype:
        case pb.DTYPE_FLOAT16:
            data = vector.astype("<f2").tobytes()
        case pb.DTYPE_INT8:
            scale = float(np.abs(vector).max())
            data = np.rint(vector / scale * 127).astype(np.int8).tobytes()
        case pb.DTYPE_BINARY:
            data = np.packbits(vector > 0).tobytes()
        case _:
            data = vector.astype("<f4").tobytes()
    return pb.Vector(data=data, dtype=output.dtype, dimension=len(vector), scale=scale)
