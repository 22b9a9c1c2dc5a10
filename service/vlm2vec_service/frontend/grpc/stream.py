"""One stream of `EmbeddingService`: what is read of it, and the answers to it."""

import asyncio
from collections.abc import AsyncIterator, Callable

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import ServeError, UnavailableError
from vlm2vec_service.frontend.access import current, public
from vlm2vec_service.frontend.holding import Holding
from vlm2vec_service.frontend.limits import check_stream_request
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.request import Caller
from vlm2vec_service.scheduling.fair_queue import Flow


class InputStream:
    """Answers the ``requests`` of a stream, each in the name of a new ``caller``.

    No more than ``stream_window`` inputs are read ahead of the answers that the caller has taken,
    and no more bytes than there is room for: a caller that does not read stops being read.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        requests: AsyncIterator[pb.EmbedStreamRequest],
        caller: Callable[[], Caller],
    ) -> None:
        self.pipeline = pipeline
        self.requests = aiter(requests)
        self.caller = caller
        self._window = asyncio.Semaphore(pipeline.settings.stream_window)
        self._answers: asyncio.Queue[pb.EmbedStreamResponse | None] = asyncio.Queue()
        self._tasks: set[asyncio.Task[None]] = set()
        self._held: set[Holding] = set()

    async def answers(self) -> AsyncIterator[pb.EmbedStreamResponse]:
        """The answers as they are ready. Raises the `ServeError` that ends the stream."""
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            while (answer := await self._answers.get()) is not None:
                yield answer
                self._window.release()
            reader.result()
        finally:
            for task in (reader, *self._tasks):
                task.cancel()
            for held in self._held:
                held.release()

    async def _read(self) -> None:
        """Accepts requests until the caller has sent all, sends what is refused, or the server
        drains: then the accepted ones finish first."""
        refusal: ServeError | None = None
        accepting = asyncio.create_task(self._accept_all())
        drained = asyncio.create_task(self.pipeline.draining.wait())
        try:
            await asyncio.wait({accepting, drained}, return_when=asyncio.FIRST_COMPLETED)
            if accepting.done():
                accepting.result()
        except ServeError as error:
            refusal = error
        finally:
            accepting.cancel()
            drained.cancel()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if refusal is not None:
            raise refusal
        if self.pipeline.draining.is_set():
            raise UnavailableError("the server is shutting down; send the rest to another", 0.1)

    async def _accept_all(self) -> None:
        """Accepts requests that the window has room for, until there are no more."""
        more = True
        while more:
            await self._window.acquire()
            more = await self._accept()

    async def _accept(self) -> bool:
        """Reads a request, and starts to answer it as soon as there is memory for it and the
        caller's quota lets it; False at the end.

        Raises `UnauthenticatedError` once the caller's credential is no longer good.
        """
        request = await anext(self.requests, None)
        if request is None:
            return False
        call, received = current.get(), self.pipeline.received
        call.recheck()
        held = Holding(received, Flow(call.caller, request.options.priority != pb.PRIORITY_BULK))
        self._held.add(held)
        size = request.ByteSize()
        if received.could_hold(size):  # else that is its answer
            await held.wait(size)
        await call.quota.turn()
        task = asyncio.create_task(self._answer(request, size, held))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return True

    async def _answer(self, request: pb.EmbedStreamRequest, size: int, held: Holding) -> None:
        """Answers one request; whatever happens is its answer."""
        answer = pb.EmbedStreamResponse(id=request.id)
        try:
            self.pipeline.received.check(size, "input")
            check_stream_request(request)
            inputs = {"input": request.input}
            (embedded,) = await self.pipeline.answer(inputs, request.options, self.caller())
            embedded.write(answer.embedding)
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            shown: ServeError = public(error, current.get().id)
            answer.error.code = shown.code
            answer.error.message = str(shown)
            answer.error.field = shown.field
            answer.error.retry_after_seconds = shown.retry_after or 0.0
        finally:
            held.release()
            self._held.discard(held)
        self._answers.put_nowait(answer)
