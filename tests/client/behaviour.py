"""Settings of the test server: what it does wrong."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc

from vlm2vec.v1 import embedding_pb2 as pb

FailedStatus = tuple[grpc.StatusCode, str, Sequence[tuple[str, str]]]
"""A status other than OK, its message and its trailers."""


@dataclass
class Behaviour:
    """What the test server does wrong; nothing, to begin with."""

    on_call: Callable[[Any, Any], None] = lambda request, context: None
    """Is given the request and the context of each unary call, and may keep it waiting."""
    unary_failures: deque[FailedStatus] = field(default_factory=deque)
    """The statuses with which the next unary calls fail."""
    stream_lives: Iterator[int] | None = None
    """After how many answers each of the next streams breaks."""
    stream_failure: FailedStatus = (grpc.StatusCode.UNAVAILABLE, "the worker is gone", ())
    """The status with which streams break."""
    drain: bool = False
    """Streams that break end with OK, as if the client had finished."""
    item_error: Callable[[str], pb.Error | None] = lambda id: None
    """The error to answer an id with."""
    shuffle: bool = False
    """Streams answer in random order."""
    hold: int = 1
    """Unanswered requests that a stream waits for before it answers, as long as more come."""
    twice: bool = False
    """Streams answer everything twice."""
    takes_more: bool = True
    """Streams say that they read several requests of one message; older servers do not."""
    silent: bool = False
    """Nothing is answered."""
    switch_after: int | None = None
    """Embeddings after which version 1 gives way to version 2, in another space."""
    ignores_space: bool = False
    """Answers are of whichever version it is the turn of, whatever space is asked for."""
