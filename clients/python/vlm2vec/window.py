"""The state of a stream, without I/O: what is asked, what is answered, and what to ask again."""

import heapq
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

from vlm2vec import checks, errors
from vlm2vec.results import Embedding, OneSpace, embedding
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.stream_items import Id, StreamRequests
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.vectors import Array

ItemResult: TypeAlias = Array | Embedding | errors.VLM2VecError
"""What a stream yields for one item: its vector, its `Embedding`, or its error."""

MOST_BYTES = 256 << 20
"""Bytes of unanswered requests at which no item is added, however few they are: films and audios
have tens of megabytes each."""


@dataclass
class _Unanswered:
    id: Id
    request: pb.EmbedStreamRequest
    nbytes: int
    retries: int = 0
    waiting: bool = False
    """Whether it waits for the moment at which it is tried again."""


class Window:
    """The at most ``size`` items of a stream that were pulled and are not yet yielded; fewer where
    their requests have `MOST_BYTES`.

    A driver makes and adds items while there is `room`, sends what `outgoing` gives, passes every
    answer to `answer` and the error of a call that broke to `broke`, and yields `results` until
    the window is `finished`.
    """

    def __init__(
        self,
        requests: StreamRequests,
        size: int,
        *,
        details: bool,
        on_error: str,
        retries: RetryPolicy,
        deadline: Deadline,
    ) -> None:
        """Raises ValueError for a ``size`` below 1 and an unknown ``on_error``, TypeError for a
        ``size`` that is no whole number."""
        size = checks.whole("window", size, 1)
        if on_error not in ("raise", "yield"):
            raise ValueError(f"on_error is {on_error!r}, neither 'raise' nor 'yield'")
        self.results: deque[tuple[Id, ItemResult]] = deque()
        """The results to yield next, with the ids of their items."""
        self.exhausted = False
        """Whether all items have been added; the driver sets it."""
        self.deadline = deadline
        """The deadline of the whole stream."""
        self.make = requests.make
        """Makes the request of an item, as `StreamRequests.make`; any thread may call it."""
        self._size = size
        self._details = details
        self._raise = on_error == "raise"
        self._retries = retries
        self._space = OneSpace()
        self._breaks = 0
        self._unanswered: dict[str, _Unanswered] = {}
        self._bytes = 0
        self._unsent: deque[str] = deque()
        # Moments on the monotonic clock, and the ids whose time then comes.
        self._waiting: list[tuple[float, str]] = []

    @property
    def room(self) -> bool:
        """Whether one more item may be added."""
        waiting = len(self._unanswered) + len(self.results)
        return waiting < self._size and self._bytes < MOST_BYTES

    @property
    def finished(self) -> bool:
        """Whether all items have been added and answered."""
        return self.exhausted and not self._unanswered

    def add(self, id: Id, request: pb.EmbedStreamRequest | errors.InvalidInput) -> None:
        """Takes what `make` gave for one more item.

        Raises ValueError for an id that is in the window already. An error instead of a request is
        a result, unless errors are to be raised.
        """
        if isinstance(request, errors.InvalidInput):
            self._fail(id, request)
        elif request.id in self._unanswered:
            raise ValueError(f"the id {id!r} is given twice")
        else:
            self._unanswered[request.id] = _Unanswered(id, request, request.ByteSize())
            self._bytes += self._unanswered[request.id].nbytes
            self._unsent.append(request.id)

    def outgoing(self) -> Iterator[pb.EmbedStreamRequest]:
        """Yields the requests to send now, each of which then counts as sent."""
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            id = heapq.heappop(self._waiting)[1]
            self._unanswered[id].waiting = False
            self._unsent.append(id)
        while self._unsent:
            yield self._unanswered[self._unsent.popleft()].request

    def wait(self) -> float | None:
        """Returns the seconds until `outgoing` has a request to try again; None if none waits."""
        return max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None

    def answer(self, response: pb.EmbedStreamResponse) -> None:
        """Turns an answer into a result, or lets its item wait for another try.

        Ignores answers to what was not asked. Raises the item's error if errors are to be raised,
        and `errors.SpaceChanged` where the results are bare vectors, which do not say their space.
        """
        asked = self._unanswered.get(response.id)
        if asked is None or asked.waiting:
            return
        self._breaks = 0
        if response.WhichOneof("result") == "error":
            error = errors.from_item(response.error, asked.id)
            if not self._try_again(response.id, asked, error):
                self._forget(response.id)
                self._fail(asked.id, error)
            return
        self._forget(response.id)
        result = embedding(response.embedding)
        if not self._details:
            self._space.check(result)
        self.results.append((asked.id, result if self._details else result.vector))

    def broke(self, error: errors.VLM2VecError) -> float:
        """Makes all that is unanswered outgoing again, after a call of EmbedStream broke.

        Returns the seconds to wait before the next call. Raises ``error`` if trying again cannot
        help, or if too many calls broke without one answer.
        """
        delay = self._retries.delay(error, self._breaks, self.deadline)
        if delay is None:
            raise error
        self._breaks += 1
        self._unsent = deque(id for id, asked in self._unanswered.items() if not asked.waiting)
        return delay

    def _forget(self, wire_id: str) -> None:
        self._bytes -= self._unanswered.pop(wire_id).nbytes

    def _try_again(self, wire_id: str, asked: _Unanswered, error: errors.VLM2VecError) -> bool:
        delay = self._retries.delay(error, asked.retries, self.deadline)
        if delay is None:
            return False
        asked.retries += 1
        asked.waiting = True
        heapq.heappush(self._waiting, (time.monotonic() + delay, wire_id))
        return True

    def _fail(self, id: Id, error: errors.VLM2VecError) -> None:
        if self._raise:
            raise error
        self.results.append((id, error))
