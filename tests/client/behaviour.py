"""What the test server does wrong."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import grpc

from vlm2vec.v1 import embedding_pb2 as pb

Failure = tuple[grpc.StatusCode, str, Sequence[tuple[str, str]]]
"""A status, its message and its trailers."""


@dataclass
class Behaviour:
    """What goes wrong; nothing, to begin with."""

    unary_failures: deque[Failure] = field(default_factory=deque)
    """Statuses of the next unary calls."""
    stream_lives: Iterator[int] | None = None
    """After how many answers each next stream breaks."""
    stream_failure: Failure = (grpc.StatusCode.UNAVAILABLE, "the worker is gone", ())
    """With which status."""
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
    silent: bool = False
    """Nothing is answered."""
    switch_after: int | None = None
    """Embeddings after which version 1 gives way to version 2, in another space."""
