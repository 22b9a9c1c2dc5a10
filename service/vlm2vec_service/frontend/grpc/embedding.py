"""`EmbeddingService` over gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc
from vlm2vec_service.errors import ServeError, UnavailableError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import current, public
from vlm2vec_service.frontend.limits import check_stream_request
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

    async def EmbedStream(
        self, requests: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Answers as they are ready. No more than ``stream_window`` inputs are read ahead of the
        answers that the caller has taken, so a caller that does not read stops being read."""
        window = asyncio.Semaphore(self.pipeline.settings.stream_window)
        answers: asyncio.Queue[pb.EmbedStreamResponse | None] = asyncio.Queue()
        tasks: set[asyncio.Task[None]] = set()
        reader = asyncio.create_task(self._read(requests, context, window, answers, tasks))
        reader.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (answer := await answers.get()) is not None:
                yield answer
                window.release()
            reader.result()
        finally:
            for task in (reader, *tasks):
                task.cancel()

    async def _read(
        self,
        requests: AsyncIterator[pb.EmbedStreamRequest],
        context: Context,
        window: asyncio.Semaphore,
        answers: asyncio.Queue[pb.EmbedStreamResponse | None],
        tasks: set[asyncio.Task[None]],
    ) -> None:
        """Starts a task for each request that the window has room for, until the caller has sent
        all, sends what is refused, or the server drains: then the accepted ones finish first."""
        incoming = aiter(requests)
        refusal: ServeError | None = None
        drained = asyncio.create_task(self.pipeline.draining.wait())
        try:
            while True:
                await window.acquire()
                received = asyncio.ensure_future(self._next(incoming))
                await asyncio.wait({received, drained}, return_when=asyncio.FIRST_COMPLETED)
                if not received.done():
                    received.cancel()
                    break
                try:
                    request = received.result()
                except ServeError as error:
                    refusal = error
                    break
                if request is None:
                    break
                task = asyncio.create_task(self._answer(request, context, answers))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(set(tasks))
        finally:
            drained.cancel()
        if refusal is not None:
            raise refusal
        if self.pipeline.draining.is_set():
            raise UnavailableError("the server is shutting down; send the rest to another", 0.1)

    async def _next(
        self, incoming: AsyncIterator[pb.EmbedStreamRequest]
    ) -> pb.EmbedStreamRequest | None:
        """The next request, as soon as the caller's quota has room for it; None at the end.

        Raises `UnauthenticatedError` once the caller's credential is no longer good.
        """
        request = await anext(incoming, None)
        if request is not None:
            current.get().recheck()
            await current.get().quota.turn()
        return request

    async def _answer(
        self,
        request: pb.EmbedStreamRequest,
        context: Context,
        answers: asyncio.Queue[pb.EmbedStreamResponse | None],
    ) -> None:
        """One request of a stream; whatever happens is its answer."""
        answer = pb.EmbedStreamResponse(id=request.id)
        try:
            check_stream_request(request)
            caller = self._caller(context, streams=True)
            inputs = {"input": request.input}
            (embedded,) = await self.pipeline.answer(inputs, request.options, caller)
            answer.embedding.CopyFrom(embedded.to_proto())
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            shown: ServeError = public(error, current.get().id)
            answer.error.code = shown.code
            answer.error.message = str(shown)
            answer.error.field = shown.field
            answer.error.retry_after_seconds = shown.retry_after or 0.0
        answers.put_nowait(answer)

    def _caller(self, context: Context, streams: bool = False) -> Caller:
        seconds = context.time_remaining()
        if seconds is None:
            seconds = self.pipeline.settings.default_deadline_seconds
        return Caller.of_current_call(time.monotonic() + seconds, streams)
