"""One call of EmbedStream, whose answers are read by a task."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, TypeAlias, TypeVar

import grpc.aio

from vlm2vec.errors import Unavailable, VLM2VecError, from_rpc
from vlm2vec.stream_items import next_message
from vlm2vec.v1 import embedding_pb2 as pb

# grpc's classes are generic only to type checkers.
Method: TypeAlias = (
    "grpc.aio.StreamStreamMultiCallable[pb.EmbedStreamRequest, pb.EmbedStreamResponse]"
)
Event: TypeAlias = pb.EmbedStreamResponse | VLM2VecError | None
"""An answer, or the error that says why there are no more, or None: there is something to send."""
Events: TypeAlias = asyncio.Queue[Event]

T = TypeVar("T")

_FAILED_WRITE = "Internal error from Core"
"""The details that gRPC gives to a call in which a write failed."""
_STATUS_SECONDS = 1.0
"""How long after its last answer the status of a call may come."""
_FINISH_SECONDS = 5.0
"""How long a server may take to end a stream in which everything is answered."""


class StreamCall:
    """One call of EmbedStream: requests go in, answers and at last an error become events."""

    def __init__(
        self,
        method: Method,
        events: Events,
        timeout: float | None,
        metadata: tuple[tuple[str, str], ...],
    ) -> None:
        self._requests: asyncio.Queue[pb.EmbedStreamRequest | None] = asyncio.Queue()
        self._end: asyncio.Future[VLM2VecError] = asyncio.get_running_loop().create_future()
        self._takes_more = False
        self._call = method(self._outgoing(), timeout=timeout, metadata=metadata)
        self._call.add_done_callback(self._ended)
        self._reader = asyncio.create_task(self._read(events))

    def send(self, requests: Iterator[pb.EmbedStreamRequest]) -> None:
        """Queues ``requests`` to be sent, and does not wait until they are."""
        for request in requests:
            self._requests.put_nowait(request)

    async def finish(self) -> None:
        """Says that no requests follow, and gives the server 5 seconds to end the call."""
        self._requests.put_nowait(None)
        await asyncio.wait({self._reader}, timeout=_FINISH_SECONDS)

    async def close(self) -> None:
        """Cancels the call if it has not ended, and waits for its tasks to end."""
        self._requests.put_nowait(None)
        self._call.cancel()
        await asyncio.wait({self._reader})

    async def _outgoing(self) -> AsyncIterator[pb.EmbedStreamRequest]:
        """What gRPC sends: the requests, each alone until the server takes several at once."""
        waiting: deque[pb.EmbedStreamRequest | None] = deque()
        while True:
            if not waiting:
                waiting.append(await self._requests.get())
            message = next_message(waiting, self._requests, self._takes_more)
            if message is None:
                return
            yield message

    async def _read(self, events: Events) -> None:
        with contextlib.suppress(grpc.aio.AioRpcError):
            async for response in self._call:
                self._takes_more |= response.takes_more
                for answer in (response, *response.more):
                    events.put_nowait(answer)
        await asyncio.wait({self._end}, timeout=_STATUS_SECONDS)
        broken = Unavailable("the connection broke")
        events.put_nowait(self._end.result() if self._end.done() else broken)

    def _ended(self, call: grpc.aio.Call) -> None:
        """Keeps the status that the server sent; gRPC calls this for each status that it sets.

        Where a write fails because the call is over, it replaces that status by one of its own,
        before or after, https://github.com/grpc/grpc/issues/36066.
        """
        error = grpc.aio.AioRpcError(
            _now(call.code()), None, _now(call.trailing_metadata()), _now(call.details())
        )
        if error.details() == _FAILED_WRITE or self._end.done():
            return
        ended = error.code() is grpc.StatusCode.OK
        self._end.set_result(
            Unavailable("the server ended the stream") if ended else from_rpc(error)
        )


def _now(coroutine: Coroutine[Any, Any, T]) -> T:
    """Returns the result of a coroutine that has it already and does not have to wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        result: T = stop.value
        return result
    raise AssertionError("it waits")
