"""What the two clients share: their settings, and the parts of their calls that need no I/O."""

import itertools
from collections.abc import Iterator
from typing import cast

import numpy as np

from vlm2vec import checks
from vlm2vec.endpoint import endpoint
from vlm2vec.fetch import Limits
from vlm2vec.inputs import InputLike
from vlm2vec.media import FilePath
from vlm2vec.options import Options, call_options
from vlm2vec.results import Embedding, OneSpace, embedding
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.stream_items import StreamRequests
from vlm2vec.tables import Inputs, each, is_one
from vlm2vec.unary_requests import MAX_INPUTS, embeddings_of
from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec.vectors import Array, read_vectors
from vlm2vec.window import Window

LEAST_MESSAGE_BYTES = 1024
"""What a message may have at least: room for more than its own framing."""
LEAST_SECONDS = 0.001
"""The shortest time that a setting may be."""


class BaseClient:
    """The settings of a client, and what follows from them for its calls."""

    def __init__(
        self,
        server: str = "localhost:50051",
        *,
        tls: bool | FilePath = False,
        certificate: tuple[FilePath, FilePath] | None = None,
        api_key: str | None = None,
        timeout: float | None = 60.0,
        max_retries: int = 5,
        initial_backoff: float = 0.5,
        max_message_bytes: int = 64 << 20,
        fetch_timeout: float = 30.0,
        keepalive: float = 60.0,
        user_agent: str = "",
    ) -> None:
        """Takes the settings; the client connects at the first call.

        Args:
            server: ``host:port``, or any target of gRPC, such as ``unix:/run/vlm2vec.sock``. Calls
                take turns among the addresses that the host resolves to.
            tls: True to trust the system's authorities, or the path of a PEM file of authorities.
            certificate: Paths of a client's PEM certificate chain and key, for mutual TLS.
            api_key: The key that is sent as a bearer token with every call, also without TLS.
            timeout: Seconds that one unary request may take with its retries, for calls without a
                timeout of their own; None is no limit.
            max_retries: How many times a call is made again after it failed.
            initial_backoff: The longest wait before the first retry, in seconds; each further one
                may be twice as long.
            max_message_bytes: The largest message to send or receive; no more than the server's
                limit.
            fetch_timeout: Seconds in which a picture, video or audio that is named by a URL has to
                be fetched; it may have as many bytes as a message.
            keepalive: Seconds of silence after which a connection is probed. A server that allows
                fewer probes ends the connection, which is then opened again.
            user_agent: A name of the caller, which is put before that of this client.

        Raises ValueError and TypeError for settings that make no sense, such as a URL as the server
        or a certificate without TLS, and OSError for a PEM file that cannot be read.
        """
        message_bytes = checks.whole("max_message_bytes", max_message_bytes, LEAST_MESSAGE_BYTES)
        self._endpoint = endpoint(
            server,
            tls=tls,
            certificate=certificate,
            api_key=api_key,
            max_message_bytes=message_bytes,
            keepalive=checks.seconds("keepalive", keepalive, LEAST_SECONDS),
            user_agent=user_agent,
        )
        self._timeout = None if timeout is None else checks.seconds("timeout", timeout)
        self._retries = RetryPolicy(
            checks.whole("max_retries", max_retries, 0),
            checks.seconds("initial_backoff", initial_backoff, 0.0),
        )
        self._limits = Limits(
            message_bytes, checks.seconds("fetch_timeout", fetch_timeout, LEAST_SECONDS)
        )
        self._open()

    def _open(self) -> None:
        """Opens the channel, in clients whose channel may be opened outside of a coroutine."""

    def _deadlines(self, timeout: float | None, inputs: int = 1) -> Iterator[Deadline]:
        """Yields the deadline of each unary request of a call with so many ``inputs``.

        With a ``timeout`` it is that of the whole call. Otherwise each request has a new one, or
        none where there are more inputs than fit into one: who sends many is ready to wait, also
        for a server that is too busy.
        """
        many = inputs > MAX_INPUTS
        if timeout is not None:
            yield from itertools.repeat(Deadline(timeout, patient=many))
        while True:
            yield Deadline(None if many else self._timeout, patient=many)

    def _window(
        self,
        window: int,
        instruction: str | None,
        details: bool,
        on_error: str,
        timeout: float | None,
        options: Options,
    ) -> Window:
        """Makes the state of a new stream, which is bulk work unless ``options`` say otherwise."""
        bulk: Options = {"priority": "bulk", **options}
        return Window(
            StreamRequests(call_options(**bulk), instruction, self._limits),
            window,
            details=details,
            on_error=on_error,
            retries=self._retries,
            deadline=Deadline(timeout),
        )


def as_list(inputs: InputLike | Inputs) -> tuple[list[InputLike], bool]:
    """Returns the inputs as a list, and whether the caller gave a single one."""
    if is_one(inputs):
        return [cast(InputLike, inputs)], True
    return list(each(inputs)), False


def space_of(found: Embedding | list[Embedding]) -> str:
    """Returns the space of what `Client.embed` has found; empty for nothing."""
    first = found[:1] if isinstance(found, list) else [found]
    return first[0].space if first else ""


def cosines(queries: Embedding | list[Embedding], candidates: Embedding | list[Embedding]) -> Array:
    """Returns the cosine of each query to each candidate, float32; single ones have no axis.

    Raises `SpaceChanged` if the two are not of one space.
    """
    left, right = (
        [side] if isinstance(side, Embedding) else side for side in (queries, candidates)
    )
    space = OneSpace()
    for first in (*left[:1], *right[:1]):
        space.check(first)
    shape = [len(side) for side in (queries, candidates) if isinstance(side, list)]
    if not (left and right):
        return np.empty(shape, np.float32)
    scores: Array = _directions(left) @ _directions(right).T
    return scores.reshape(shape)


def _directions(found: list[Embedding]) -> Array:
    """Returns the vectors with length 1, float32 ``(n, dim)``; one of zeros stays what it is."""
    vectors = np.stack([one.vector for one in found])
    norms: Array = np.linalg.norm(vectors, axis=1, keepdims=True)
    norms[norms == 0] = 1
    return vectors / norms


class Found:
    """What embed has found so far for its inputs, and returns in the end."""

    def __init__(self, inputs: int, details: bool) -> None:
        """Expects as many ``inputs``, and keeps an `Embedding` of each if ``details`` are asked."""
        self.count = 0
        """How many of the inputs are answered."""
        self._inputs = inputs
        self._details = details
        self._space = OneSpace()
        self._embeddings: list[Embedding] = []
        self._vectors: Array = np.empty((0, 0), np.float32)

    @property
    def space(self) -> str:
        """The space of the vectors; empty before there are any."""
        return self._space.space

    def add(self, request: pb.EmbedRequest, response: pb.EmbedResponse) -> int:
        """Takes the answer to the next request, and returns how many inputs that has.

        Raises `SpaceChanged` if its vectors are not of the space of those before, and `Internal`
        for one that is malformed, or of another length.
        """
        found = embeddings_of(request, response)
        for message in found:
            self._space.check(message)
        if self._details:
            self._embeddings += map(embedding, found)
        else:
            if not self.count:
                self._vectors = np.empty((self._inputs, found[0].vector.dimension), np.float32)
            read_vectors(found, self._vectors[self.count : self.count + len(found)])
        self.count += len(found)
        return len(found)

    def result(self, single: bool) -> Array | Embedding | list[Embedding]:
        """Returns what embed does for all inputs, of which a ``single`` one has no axis."""
        found = self._embeddings if self._details else self._vectors
        return found[0] if single else found
