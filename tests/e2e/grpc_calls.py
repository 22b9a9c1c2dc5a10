"""Calls over gRPC and what they end with: vectors, answers by id, errors and trailers."""

from collections.abc import Iterable
from typing import Any

import grpc
import pytest

from tests.e2e.cases import Vector, options, unpack
from tests.e2e.server import Server
from vlm2vec.v1 import embedding_pb2 as pb

SERVICES = ("vlm2vec.v1.EmbeddingService", "vlm2vec.v1.AdapterService")


def embed(server: Server, *inputs: pb.Input, given: pb.CallOptions | None = None) -> list[Vector]:
    """Vectors of ``inputs``, by default of the champion of ``qwen``."""
    request = pb.EmbedRequest(options=given or options(), inputs=inputs)
    return [unpack(item.vector) for item in server.embedding.Embed(request).embeddings]


def stream(
    server: Server, requests: Iterable[pb.EmbedStreamRequest]
) -> dict[str, pb.EmbedStreamResponse]:
    """The answers by id; none may come twice."""
    answers: dict[str, pb.EmbedStreamResponse] = {}
    for answer in server.embedding.EmbedStream(iter(requests)):
        assert answer.id not in answers
        answers[answer.id] = answer
    return answers


def spaces(server: Server) -> dict[tuple[str, str], str]:
    """The space of each model and version."""
    return {
        (model.name, version.version): version.space
        for model in server.embedding.ListModels(pb.ListModelsRequest()).models
        for version in model.versions
    }


def failure(method: Any, request: Any, **values: Any) -> grpc.Call:
    """The error that a call ends with: a code, details, trailers."""
    with pytest.raises(grpc.RpcError) as caught:
        method(request, **values)
    error = caught.value
    assert isinstance(error, grpc.Call)
    return error


def outcome(method: Any, request: Any, **values: Any) -> grpc.StatusCode:
    """The code that a call ends with."""
    try:
        method(request, **values)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def trailers(call: grpc.Call) -> dict[str, str]:
    """The trailing metadata of a call that ended."""
    return {key: str(value) for key, value in call.trailing_metadata()}
