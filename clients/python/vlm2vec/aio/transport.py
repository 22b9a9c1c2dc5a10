"""An open gRPC channel, and the calls that are made on it."""

import asyncio
import itertools
from typing import TypeVar

import grpc.aio

from vlm2vec.aio.stream_call import Events, StreamCall
from vlm2vec.endpoint import Endpoint
from vlm2vec.errors import from_rpc
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1.embedding_pb2_grpc import EmbeddingServiceStub

Request = TypeVar("Request")
Response = TypeVar("Response")


class Transport:
    """Makes the calls of a client on one channel, which belongs to the running event loop."""

    def __init__(self, endpoint: Endpoint, retries: RetryPolicy) -> None:
        """Opens the channel, which connects at the first call."""
        if endpoint.credentials is None:
            self._channel = grpc.aio.insecure_channel(endpoint.target, endpoint.options)
        else:
            self._channel = grpc.aio.secure_channel(
                endpoint.target, endpoint.credentials, endpoint.options
            )
        self._stub = EmbeddingServiceStub(self._channel)
        self._metadata = endpoint.metadata
        self._retries = retries

    async def embed(self, request: pb.EmbedRequest, deadline: Deadline) -> pb.EmbedResponse:
        """Calls Embed. This and the other unary calls raise a `VLM2VecError` where they fail."""
        return await self._call(self._stub.Embed, request, deadline)

    async def rank(self, request: pb.RankRequest, deadline: Deadline) -> pb.RankResponse:
        """Calls Rank."""
        return await self._call(self._stub.Rank, request, deadline)

    async def models(self, deadline: Deadline) -> pb.ListModelsResponse:
        """Calls ListModels."""
        return await self._call(self._stub.ListModels, pb.ListModelsRequest(), deadline)

    def open_stream(self, deadline: Deadline, events: Events) -> StreamCall:
        """Starts a call of EmbedStream, whose answers are put into ``events``."""
        return StreamCall(self._stub.EmbedStream, events, deadline.remaining(), self._metadata)

    async def close(self) -> None:
        """Closes the connections; calls under way fail."""
        await self._channel.close()

    async def _call(
        self,
        method: "grpc.aio.UnaryUnaryMultiCallable[Request, Response]",
        request: Request,
        deadline: Deadline,
    ) -> Response:
        """Makes a unary call, and makes it again after an error for which that can help."""
        for attempt in itertools.count():
            try:
                return await method(request, timeout=deadline.remaining(), metadata=self._metadata)
            except grpc.RpcError as error:
                failure = from_rpc(error)
                delay = self._retries.delay(failure, attempt, deadline)
                if delay is None:
                    raise failure from error
            await asyncio.sleep(delay)
        raise AssertionError("counting does not end")
