"""`EmbeddingService` over gRPC."""

import functools
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.grpc.stream import InputStream
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.request import Caller

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """The public API on a `Pipeline`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """All inputs, or the first error."""
        return await calls.embed(
            self.pipeline, request.inputs, request.options, self._caller(context)
        )

    async def Rank(self, request: pb.RankRequest, context: Context) -> pb.RankResponse:
        """Cosines of the candidates' vectors to the query's, the best first."""
        return await calls.rank(
            self.pipeline, request.query, request.candidates, request.options, request.top_k,
            self._caller(context),
        )  # fmt: skip

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """The catalog."""
        return calls.list_models(self.pipeline, self._caller(context))

    def EmbedStream(
        self, requests: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Answers as they are ready; see `InputStream`."""
        caller = functools.partial(self._caller, context, streams=True)
        return InputStream(self.pipeline, requests, caller).answers()

    def _caller(self, context: Context, streams: bool = False) -> Caller:
        seconds = context.time_remaining()
        if seconds is None:
            seconds = self.pipeline.settings.default_deadline_seconds
        return Caller.of_current_call(time.monotonic() + seconds, streams)
