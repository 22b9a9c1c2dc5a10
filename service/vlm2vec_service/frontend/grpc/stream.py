"""One stream of `EmbeddingService`: what is read of it, and the answers to it."""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import ServeError, UnavailableError
from vlm2vec_service.frontend.access import current, public
from vlm2vec_service.frontend.holding import Holding
from vlm2vec_service.frontend.limits import check_count, check_parts, check_stream_request
from vlm2vec_service.frontend.parsing import SMALL, parsed
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.preparation import MOST_TOGETHER, Bundle, bundled
from vlm2vec_service.frontend.request import Answer, Asked, Caller
from vlm2vec_service.scheduling.fair_queue import Flow

GATHER_SECONDS = 0.001
"""How long inputs that have come wait for the next of their stream, to be answered with it."""
MOST_MORE_BYTES = 262_144
"""Bytes of answers to which another is added in one message."""


async def apart(message: pb.EmbedStreamRequest, most: int) -> list[pb.EmbedStreamRequest]:
    """The requests of a message: its own and those in ``more``. Raises `InvalidInputError` for more
    than ``most``, which is ``max_inputs``."""
    if not message.more:
        return [message]
    check_count("more", 1 + len(message.more), most)
    size, requests = message.ByteSize(), [message, *message.more]
    del message.more[:]
    if size <= SMALL:
        return requests
    # Each keeps all of the message in memory, otherwise, for as long as it waits itself.
    return await parsed(
        lambda: [type(one).FromString(one.SerializeToString()) for one in requests], size
    )


class InputStream:
    """Answers the ``requests`` of a stream, each in the name of a new ``caller``.

    No more than ``stream_window`` inputs are read ahead of the answers that the caller has taken,
    and no more bytes than there is room for: a caller that does not read stops being read. Short
    texts that come behind one another are answered together, which costs the front end less; one
    that comes while none of its stream is under way waits for no others. Once the caller has sent
    a message with ``more``, answers that are ready together go in one message, too.
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
        self._accepted: list[tuple[pb.EmbedStreamRequest, Holding]] = []
        self._gathering: asyncio.TimerHandle | None = None
        self._held: set[Holding] = set()
        """Of the requests that have no answer."""
        self._sends_more = False

    async def answers(self) -> AsyncIterator[pb.EmbedStreamResponse]:
        """The answers as they are ready. Raises the `ServeError` that ends the stream."""
        reader = asyncio.create_task(self._read())
        reader.add_done_callback(lambda _: self._answers.put_nowait(None))
        try:
            takes_more = True
            while (answer := await self._answers.get()) is not None:
                answer.takes_more, takes_more = takes_more, False
                count = self._add_more(answer)
                yield answer
                del answer  # the next may be hours away
                for _ in range(count):
                    self._window.release()
            reader.result()
        finally:
            self._accepted.clear()
            for task in (reader, *self._tasks):
                task.cancel()
            for held in self._held:
                held.release()

    def _add_more(self, answer: pb.EmbedStreamResponse) -> int:
        """Adds to an answer the others that are ready; how many there are with it."""
        nbytes = answer.ByteSize()
        while self._sends_more and nbytes < MOST_MORE_BYTES and not self._answers.empty():
            more = self._answers.get_nowait()
            if more is None:
                self._answers.put_nowait(None)
                break
            nbytes += more.ByteSize()
            answer.more.append(more)
        return 1 + len(answer.more)

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
        self._answer_accepted()
        if self._tasks:
            await asyncio.wait(set(self._tasks))
        if refusal is not None:
            raise refusal
        if self.pipeline.draining.is_set():
            raise UnavailableError("the server is shutting down; send the rest to another", 0.1)

    async def _accept_all(self) -> None:
        """Accepts requests that the window has room for, until there are no more."""
        await self._window.acquire()
        while await self._accept_message():
            pass

    async def _accept_message(self) -> bool:
        """Accepts the requests of the next message, of which nothing is kept here while another is
        waited for; False at the end. Raises `InvalidInputError` for too many requests."""
        message = await anext(self.requests, None)
        if message is None:
            return False
        requests = await apart(message, self.pipeline.settings.max_inputs)
        self._sends_more |= len(requests) > 1
        alone = not self._held and self._answers.empty()
        for request in requests:
            await self._accept(request)
            all_there = alone and request is requests[-1]
            if all_there or len(self._accepted) == MOST_TOGETHER:
                self._answer_accepted()
            elif self._gathering is None:
                self._gather(0)
            await self._window.acquire()
        return True

    async def _accept(self, request: pb.EmbedStreamRequest) -> None:
        """Lets a request be answered as soon as there is memory for it and the caller's quota lets
        it. Raises `UnauthenticatedError` once the caller's credential is no longer good."""
        call, received = current.get(), self.pipeline.received
        call.recheck()
        held = Holding(received, Flow(call.caller, request.options.priority != pb.PRIORITY_BULK))
        self._held.add(held)
        size = request.ByteSize()
        if received.could_hold(size):  # else that is its answer
            await held.wait(size)
        await call.quota.turn()
        self._accepted.append((request, held))

    def _gather(self, before: int) -> None:
        """Answers what was accepted, once there are no more of it than ``before``."""
        count = len(self._accepted)
        if count > before:
            loop = asyncio.get_running_loop()
            self._gathering = loop.call_later(GATHER_SECONDS, self._gather, count)
        else:
            self._answer_accepted()

    def _answer_accepted(self) -> None:
        """Starts to answer what was accepted, in bundles of requests with equal options."""
        if self._gathering is not None:
            self._gathering.cancel()
            self._gathering = None
        accepted, self._accepted = self._accepted, []
        alike: dict[bytes, list[Asked]] = {}
        for request, held in accepted:
            asked = Asked("input", request.input, functools.partial(self._give, request.id, held))
            try:
                self._check(request)
            except ServeError as error:
                asked.give(error)
            else:
                alike.setdefault(request.options.SerializeToString(), []).append(asked)
        for options, inputs in alike.items():
            for bundle in bundled(inputs, MOST_TOGETHER):
                answering = self._answer(bundle, pb.CallOptions.FromString(options))
                task = asyncio.create_task(answering)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

    def _check(self, request: pb.EmbedStreamRequest) -> None:
        self.pipeline.received.check(request.ByteSize(), "input")
        check_stream_request(request)
        check_parts(request.input, self.pipeline.limits.max_parts, "input")

    async def _answer(self, bundle: Bundle, options: pb.CallOptions) -> None:
        """Answers requests; whatever happens is the answer to those that have none by then."""
        try:
            await self.pipeline.answer_bundle(bundle, options, self.caller())
        except Exception as error:  # noqa: BLE001 (every request gets an answer)
            for asked in bundle.inputs:
                asked.give(error)

    def _give(self, id: str, held: Holding, outcome: Answer | Exception) -> None:
        """Answers the request ``id``, unless it was answered."""
        if held not in self._held:
            return
        answer = pb.EmbedStreamResponse(id=id)
        if isinstance(outcome, Answer):
            outcome.write(answer.embedding)
        else:
            shown: ServeError = public(outcome, current.get().id)
            answer.error.code = shown.code
            answer.error.message = str(shown)
            answer.error.field = shown.field
            answer.error.retry_after_seconds = shown.retry_after or 0.0
        held.release()
        self._held.discard(held)
        self._answers.put_nowait(answer)
