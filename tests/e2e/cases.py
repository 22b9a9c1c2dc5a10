"""The parity cases as messages, and vectors that have to be the golden ones."""

import functools
import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.conftest import CASES, case_pictures
from vlm2vec.v1 import embedding_pb2 as pb

ARCHITECTURES = {"qwen": "qwen2_vl", "phi": "phi3_v"}
"""What is behind the names that the test servers give their models."""
VERSIONS = ("base", "lora", "dora")

Vector = npt.NDArray[np.float32]
Golden = Mapping[str, Vector]


def png(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def case_input(case: Mapping[str, Any]) -> pb.Input:
    """A parity case, its pictures as PNG."""
    images, video = (case_pictures(dict(case), key) for key in ("images", "video"))
    parts = [pb.Part(image=png(picture)) for picture in images]
    if video:
        frames = pb.Frames(images=[png(picture) for picture in video])
        parts.append(pb.Part(video=pb.Video(frames=frames)))
    return pb.Input(prompt=case["text"], parts=parts)


@functools.cache
def case_inputs(model: str) -> dict[str, pb.Input]:
    """All cases of a model by id."""
    return {case["id"]: case_input(case) for case in CASES[ARCHITECTURES[model]]}


def text(words: str) -> pb.Input:
    return pb.Input(parts=[pb.Part(text=words)])


def options(model: str = "qwen", version: str = "", **values: Any) -> pb.CallOptions:
    """Options for a version of a model; ``values`` are further fields of `CallOptions`."""
    reference = pb.ModelRef(name=model, version=version) if version else pb.ModelRef(name=model)
    return pb.CallOptions(model=reference, **values)


def unpack(vector: pb.Vector) -> Vector:
    """The components, as near as the format keeps them; -1 and 1 from binary."""
    if vector.dtype == pb.DTYPE_FLOAT32:
        values = np.frombuffer(vector.data, "<f4")
    elif vector.dtype == pb.DTYPE_FLOAT16:
        values = np.frombuffer(vector.data, "<f2")
    elif vector.dtype == pb.DTYPE_INT8:
        values = np.frombuffer(vector.data, np.int8) * np.float32(vector.scale / 127)
    else:
        bits = np.unpackbits(np.frombuffer(vector.data, np.uint8), count=vector.dimension)
        values = bits * 2.0 - 1.0
    assert len(values) == vector.dimension
    return values.astype(np.float32)


def cosine(a: Vector, b: Vector) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))


def assert_golden(
    embedding: pb.Embedding, golden: Golden, model: str, version: str, case: str, named: str = ""
) -> None:
    """Whether it is the vector of that case, and says where it comes from; ``named`` is what the
    server calls the version, if that is another name."""
    vector = unpack(embedding.vector)
    key = f"{ARCHITECTURES[model]}/{version}/{case}"
    assert cosine(vector, golden[key]) > 0.9999, key
    assert abs(np.linalg.norm(vector) - 1) < 1e-4
    assert (embedding.model, embedding.version) == (model, named or version)
