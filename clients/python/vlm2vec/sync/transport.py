"""A channel, and calls on it."""

import itertools
import time
from typing import TypeVar

import grpc

from vlm2vec.channel import Endpoint
from vlm2vec.errors import from_rpc
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.sync.connection import Connection
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1.embedding_pb2_grpc import EmbeddingServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class Transport:
    """An open channel."""

    def __init__(self, endpoint: Endpoint, retries: RetryPolicy) -> None:
        """Connects at the first call."""
        if endpoint.credentials is None:
            self._channel = grpc.insecure_channel(endpoint.target, endpoint.options)
        else:
            self._channel = grpc.secure_channel(
                endpoint.target, endpoint.credentials, endpoint.options
            )
        self._stub = EmbeddingServiceStub(self._channel)
        self._metadata = endpoint.metadata
        self._retries = retries

    def embed(self, request: pb.EmbedRequest, deadline: Deadline) -> pb.EmbedResponse:
        """Calls Embed; this and the other calls raise a `VLM2VecError`."""
        return self._call(self._stub.Embed, request, deadline)

    def rank(self, request: pb.RankRequest, deadline: Deadline) -> pb.RankResponse:
        """Calls Rank."""
        return self._call(self._stub.Rank, request, deadline)

    def models(self, deadline: Deadline) -> pb.ListModelsResponse:
        """Calls ListModels."""
        return self._call(self._stub.ListModels, pb.ListModelsRequest(), deadline)

    def connect(self, deadline: Deadline) -> Connection:
        """Starts a stream."""
        return Connection(self._stub.EmbedStream, deadline.remaining(), self._metadata)

    def close(self) -> None:
        """Closes the connections; calls under way fail."""
        self._channel.close()

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        deadline: Deadline,
    ) -> Response:
        """Makes a unary call, again where that can help."""
        for attempt in itertools.count():
            try:
                return method(request, timeout=deadline.remaining(), metadata=self._metadata)
            except grpc.RpcError as error:
                failure = from_rpc(error)
                delay = self._retries.delay(failure, attempt, deadline)
                if delay is None:
                    raise failure from error
            time.sleep(delay)
        raise AssertionError("counting does not end")
