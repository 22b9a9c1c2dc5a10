"""An open gRPC channel, and the calls that are made on it."""

from typing import TypeVar

import grpc

from vlm2vec.endpoint import Endpoint
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.sync.stream_call import StreamCall
from vlm2vec.sync.unary_calls import UnaryCall
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1.embedding_pb2_grpc import EmbeddingServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class Transport:
    """Makes the calls of a client on one channel."""

    def __init__(self, endpoint: Endpoint, retries: RetryPolicy) -> None:
        """Opens the channel, which connects at the first call."""
        if endpoint.credentials is None:
            self._channel = grpc.insecure_channel(endpoint.target, endpoint.options)
        else:
            self._channel = grpc.secure_channel(
                endpoint.target, endpoint.credentials, endpoint.options
            )
        self._stub = EmbeddingServiceStub(self._channel)
        self._metadata = endpoint.metadata
        self._retries = retries

    def embed(
        self, request: pb.EmbedRequest, deadline: Deadline
    ) -> UnaryCall[pb.EmbedRequest, pb.EmbedResponse]:
        """Makes a call of Embed, which is sent when it is told to."""
        return self._call(self._stub.Embed, request, deadline)

    def rank(
        self, request: pb.RankRequest, deadline: Deadline
    ) -> UnaryCall[pb.RankRequest, pb.RankResponse]:
        """Makes a call of Rank, likewise."""
        return self._call(self._stub.Rank, request, deadline)

    def models(self, deadline: Deadline) -> pb.ListModelsResponse:
        """Calls ListModels; raises a `VLM2VecError` where that fails."""
        return self._call(self._stub.ListModels, pb.ListModelsRequest(), deadline).result()

    def open_stream(self, deadline: Deadline) -> StreamCall:
        """Starts a call of EmbedStream, which is cancelled when the deadline has passed."""
        return StreamCall(self._stub.EmbedStream, deadline.remaining(), self._metadata)

    def close(self) -> None:
        """Closes the connections; calls under way fail."""
        self._channel.close()

    def _call(
        self,
        method: "grpc.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        deadline: Deadline,
    ) -> UnaryCall[Request, Response]:
        return UnaryCall(method, request, self._metadata, self._retries, deadline)
