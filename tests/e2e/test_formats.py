"""The output formats of vectors: how many dimensions, in which dtype, normalised or not."""

from typing import Any

import numpy as np
import pytest

from tests.e2e.cases import case_inputs, options, unpack
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

DIMENSION = 128
"""The number of components that a vector of ``qwen`` has."""


def formatted(server: Server, **values: Any) -> list[pb.Vector]:
    """The vectors of a text, an image and a video in the output format that ``values`` tell."""
    cases = case_inputs("qwen")
    request = pb.EmbedRequest(
        options=options(output=pb.OutputOptions(**values)),
        inputs=[cases[case] for case in ("text", "image", "video")],
    )
    return [item.vector for item in server.embedding.Embed(request).embeddings]


@pytest.mark.parametrize("dimensions", [0, 100, 1, DIMENSION])
@pytest.mark.parametrize("normalize", [None, True, False])
def test_formats_keep_what_they_can_of_the_vector(
    server: Server, dimensions: int, normalize: bool | None
) -> None:
    size = dimensions or DIMENSION
    raw = [unpack(vector) for vector in formatted(server, normalize=False)]
    assert all(abs(np.linalg.norm(vector) - 1) > 0.01 for vector in raw)
    expected = [
        vector[:size] if normalize is False else vector[:size] / np.linalg.norm(vector[:size])
        for vector in raw
    ]
    answers = {
        dtype: formatted(server, dimensions=dimensions, normalize=normalize, dtype=dtype)
        for dtype in pb.Dtype.values()
    }
    for dtype, vectors in answers.items():
        for wanted, packed in zip(expected, vectors, strict=True):
            largest = float(np.abs(wanted).max())
            assert packed.dtype == (dtype or pb.DTYPE_FLOAT32)
            assert packed.dimension == size
            if packed.dtype == pb.DTYPE_BINARY:
                assert len(packed.data) == (size + 7) // 8
                np.testing.assert_array_equal(unpack(packed) > 0, wanted > 0)
                continue
            allowed, bytes_each, scale = {
                pb.DTYPE_FLOAT32: (1e-5, 4, 0),
                pb.DTYPE_FLOAT16: (1e-3, 2, 0),
                pb.DTYPE_INT8: (0.5 / 127 + 1e-5, 1, pytest.approx(largest, rel=1e-4)),
            }[packed.dtype]
            assert len(packed.data) == size * bytes_each
            assert packed.scale == scale
            assert np.abs(unpack(packed) - wanted).max() <= allowed * largest
