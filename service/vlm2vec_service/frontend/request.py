"""One request on its way: who asks, what answers it, and what came of it."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import DeadlineError
from vlm2vec_service.frontend.access import Call, current
from vlm2vec_service.frontend.auth.identity import ANYONE, Identity
from vlm2vec_service.frontend.auth.quota import UNLIMITED, Quota
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.frontend.vectors import encode_vector
from vlm2vec_service.scheduling.fair_queue import Flow
from vlm2vec_service.versions.catalog import Version


@dataclass(frozen=True)
class Caller:
    """Who asks, and until when an answer is of use (in the time of ``time.monotonic``). One that
    streams waits where its quota is spent and where the queue is full; any other is refused."""

    name: str
    deadline: float
    identity: Identity = ANYONE
    quota: Quota = UNLIMITED
    streams: bool = False
    call: Call | None = None
    """The call whose log says what was asked; None where nobody called."""

    @classmethod
    def of_current_call(cls, deadline: float, streams: bool = False) -> "Caller":
        """Makes the caller of the call that is being answered, as `Access` knows it."""
        call = current.get()
        return cls(call.caller, deadline, call.identity, call.quota, streams, call)

    def asks(self, model: str, version: str = "", inputs: int = 0) -> None:
        """Notes in the call that ``model`` is asked, and once that is known its ``version`` for so
        many ``inputs``."""
        if self.call is not None:
            self.call.found(model, version)
            self.call.inputs += inputs

    @property
    def routing_key(self) -> str:
        """What routes a request that has no key of its own: that of a header, or the caller."""
        return (self.call and self.call.routing_key) or self.name

    @property
    def remaining(self) -> float | None:
        """Seconds until the deadline; None for one that lies too far ahead for a timer."""
        seconds = self.deadline - time.monotonic()
        return seconds if seconds < 1e9 else None

    async def pay(self, tokens: Sequence[int]) -> int:
        """Takes what several inputs cost from the quota, and notes it in the call. Returns how many
        of them are paid for: at least the first, whose turn a stream waits for."""
        paid = len(tokens)
        if self.quota is not UNLIMITED:
            paid = await self.quota.pay(tokens, self.streams)
        if self.call is not None:
            self.call.tokens += sum(tokens[:paid])
        return paid


class Deadline:
    """Ends a block at the deadline of ``caller``: `DeadlineError` says what had not ``passed`` by
    then, which the block may change as it goes on."""

    def __init__(self, caller: Caller, passed: str) -> None:
        self.passed = passed
        self._timeout = asyncio.timeout(caller.remaining)

    async def __aenter__(self) -> Self:
        await self._timeout.__aenter__()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            await self._timeout.__aexit__(kind, error, trace)
        except TimeoutError as late:
            raise DeadlineError(f"the deadline passed {self.passed}") from late
        finally:
            del self._timeout  # it knows its task, which knows the error, and that the frame here


@dataclass(frozen=True)
class Route:
    """Which version of which model answers a request with these options."""

    served: Served
    version: Version
    options: pb.CallOptions

    @property
    def interactive(self) -> bool:
        """Whether somebody waits for the answer."""
        return bool(self.options.priority != pb.PRIORITY_BULK)

    def flow(self, caller: Caller) -> Flow:
        """The flow that the request is part of."""
        return Flow(caller.name, self.interactive)

    @property
    def truncate(self) -> int | None:
        """How many tokens a longer input is cut to, 0 for as many as there may be; None cuts
        nothing."""
        return self.options.truncate if self.options.HasField("truncate") else None

    @property
    def normalize(self) -> bool | None:
        """Whether the caller wants vectors of length 1; None leaves it to the version."""
        output = self.options.output
        return output.normalize if output.HasField("normalize") else None

    @property
    def unit(self) -> bool:
        """Whether vectors are to have length 1."""
        wanted = self.normalize
        return self.version.config.normalize if wanted is None else wanted


class Answer(NamedTuple):
    """What came of one input: ``vector`` is float32 ``(dim,)`` as the engine gave it;
    ``truncated`` says whether the end of the text was left out; the rest are seconds in each
    stage."""

    route: Route
    vector: npt.NDArray[np.float32]
    tokens: int
    truncated: bool
    preprocess_seconds: float
    queue_seconds: float
    inference_seconds: float

    def write(self, embedding: pb.Embedding) -> None:
        """Packs the answer into ``embedding``, the vector in the format that the caller asked for.

        A message that is made and put into another is copied, and the vector with it.
        """
        route, timings = self.route, embedding.timings
        encode_vector(self.vector, route.options.output, route.unit, embedding.vector)
        embedding.model = route.served.model.name
        embedding.version = route.version.name
        embedding.space = route.version.space
        embedding.tokens = self.tokens
        embedding.truncated = self.truncated
        timings.preprocess_seconds = self.preprocess_seconds
        timings.queue_seconds = self.queue_seconds
        timings.inference_seconds = self.inference_seconds


class Asked(NamedTuple):
    """One input that is asked for: the ``field`` of the caller's message that it came in, and who
    takes its outcome: an `Answer`, or what went wrong with it. ``waiter`` is done once nobody waits
    for the outcome any more, where that may be so of one input and not of those beside it."""

    field: str
    message: pb.Input
    give: Callable[[Answer | Exception], None]
    waiter: asyncio.Future[Answer] | None = None
