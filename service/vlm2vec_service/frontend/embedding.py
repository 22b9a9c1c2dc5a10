"""`EmbeddingService` over gRPC."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc
import numpy as np

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.v1 import embedding_pb2_grpc
from vlm2vec_service.errors import InvalidInputError, UnavailableError, Vlm2vecError
from vlm2vec_service.frontend.interceptor import public, request_id
from vlm2vec_service.frontend.parsing import MAX_ID_BYTES
from vlm2vec_service.frontend.service import Caller, Service, Target

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class EmbeddingServicer(embedding_pb2_grpc.EmbeddingServiceServicer):
    """The public API on a `Service`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def Embed(self, request: pb.EmbedRequest, context: Context) -> pb.EmbedResponse:
        """All inputs, or the first error."""
        self._check_count("inputs", len(request.inputs))
        caller = self._caller(context)
        target = await self.service.target(request.options, caller)
        inputs = {f"inputs[{i}]": message for i, message in enumerate(request.inputs)}
        return pb.EmbedResponse(embeddings=await self._all(inputs, target, caller))

    async def Rank(self, request: pb.RankRequest, context: Context) -> pb.RankResponse:
        """Cosines of the candidates' vectors to the query's, the best first."""
        self._check_count("candidates", len(request.candidates))
        options = pb.CallOptions()
        options.CopyFrom(request.options)
        options.ClearField("output")
        options.output.normalize = True
        caller = self._caller(context)
        target = await self.service.target(options, caller)
        inputs = {"query": request.query}
        inputs |= {f"candidates[{i}]": message for i, message in enumerate(request.candidates)}
        embeddings = await self._all(inputs, target, caller)
        vectors = np.stack([np.frombuffer(e.vector.data, "<f4") for e in embeddings])
        # Rounding may leave the cosine of equal vectors a little above 1.
        scores = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
        best = np.argsort(-scores, kind="stable")[: request.top_k or None]
        return pb.RankResponse(
            candidates=[pb.RankedCandidate(index=i, score=scores[i]) for i in best.tolist()],
            model=target.served.model.name,
            version=target.version.name,
            space=target.version.space,
        )

    async def ListModels(
        self, request: pb.ListModelsRequest, context: Context
    ) -> pb.ListModelsResponse:
        """The catalog."""
        models = [
            pb.Model(
                name=served.model.name,
                backbone=served.model.backbone,
                dimension=served.dimension,
                ready=served.ready,
                versions=[
                    pb.ModelVersion(
                        version=version.name,
                        space=version.space,
                        aliases=served.model.aliases_of(version.name),
                    )
                    for version in served.model.versions.values()
                ],
            )
            for _, served in sorted(self.service.served.items())
        ]
        return pb.ListModelsResponse(models=models)

    async def EmbedStream(
        self, requests: AsyncIterator[pb.EmbedStreamRequest], context: Context
    ) -> AsyncIterator[pb.EmbedStreamResponse]:
        """Answers as they are ready. No more than ``stream_window`` inputs are read ahead of the
        answers that the caller has taken, so a caller that does not read stops being read."""
        window = asyncio.Semaphore(self.service.settings.stream_window)
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
        all, or the server drains: then the accepted ones finish and the stream is refused."""
        incoming = aiter(requests)
        drained = asyncio.create_task(self.service.draining.wait())
        try:
            while True:
                await window.acquire()
                received = asyncio.ensure_future(anext(incoming, None))
                await asyncio.wait({received, drained}, return_when=asyncio.FIRST_COMPLETED)
                if not received.done():
                    received.cancel()
                    break
                request = received.result()
                if request is None:
                    break
                task = asyncio.create_task(self._answer(request, context, answers))
                tasks.add(task)
                task.add_done_callback(tasks.discard)
            if tasks:
                await asyncio.wait(set(tasks))
        finally:
            drained.cancel()
        if self.service.draining.is_set():
            raise UnavailableError("the server is shutting down; send the rest to another", 0.1)

    async def _answer(
        self,
        request: pb.EmbedStreamRequest,
        context: Context,
        answers: asyncio.Queue[pb.EmbedStreamResponse | None],
    ) -> None:
        """One request of a stream; whatever happens is its answer."""
        answer = pb.EmbedStreamResponse(id=request.id)
        try:
            if not 1 <= len(request.id.encode()) <= MAX_ID_BYTES:
                raise InvalidInputError("id", f"needed, 1 to {MAX_ID_BYTES} bytes")
            if not request.HasField("input"):
                raise InvalidInputError("input", "missing")
            caller = self._caller(context)
            target = await self.service.target(request.options, caller)
            await self.service.room(target)
            with self.service.admitted(target, caller):
                embedding = await self.service.embed(request.input, target, caller, "input")
            answer.embedding.CopyFrom(embedding)
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            shown: Vlm2vecError = public(error, request_id.get())
            answer.error.code = shown.grpc_code
            answer.error.message = str(shown)
            answer.error.field = shown.field
            answer.error.retry_after_seconds = shown.retry_after or 0.0
        answers.put_nowait(answer)

    async def _all(
        self, inputs: dict[str, pb.Input], target: Target, caller: Caller
    ) -> list[pb.Embedding]:
        """Embeds ``inputs``, by their field, together; the first error cancels the others."""
        with self.service.admitted(target, caller, len(inputs)):
            try:
                async with asyncio.TaskGroup() as group:
                    tasks = [
                        group.create_task(self.service.embed(message, target, caller, field))
                        for field, message in inputs.items()
                    ]
            except ExceptionGroup as errors:
                # The others only say that they were cancelled.
                raise errors.exceptions[0] from None
        return [task.result() for task in tasks]

    def _check_count(self, field: str, count: int) -> None:
        most = self.service.settings.max_inputs
        if not 1 <= count <= most:
            raise InvalidInputError(field, f"{count} given; 1 to max_inputs, {most}, are accepted")

    def _caller(self, context: Context) -> Caller:
        """By the address without the port, so that one host's connections share a turn."""
        seconds = context.time_remaining()
        if seconds is None:
            seconds = self.service.settings.default_deadline_seconds
        peer = context.peer() or ""
        name = peer.rpartition(":")[0] if peer.startswith(("ipv4:", "ipv6:")) else peer
        return Caller(name, time.monotonic() + seconds)
