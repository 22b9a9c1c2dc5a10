"""What the two clients share: settings, and calls without their I/O."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from vlm2vec.batches import MAX_INPUTS
from vlm2vec.channel import endpoint
from vlm2vec.inputs import Input, InputLike
from vlm2vec.items import Requests
from vlm2vec.media import FilePath
from vlm2vec.options import Options, Priority, call_options
from vlm2vec.results import Embedding, OneSpace
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.vectors import Array
from vlm2vec.window import Window

STREAM_ABOVE = 4 * MAX_INPUTS
"""Inputs above which embed opens a stream instead of making one unary call after the other."""


class BaseClient:
    """Settings of a client."""

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
        keepalive: float = 60.0,
        user_agent: str = "",
    ) -> None:
        """Connects at the first call.

        Args:
            server: ``host:port``; calls take turns among the addresses that the host resolves to.
                Or any target of gRPC, such as ``unix:/run/vlm2vec.sock``.
            tls: True to trust the system's authorities, or the path of a PEM file of authorities.
            certificate: Paths of a client's PEM certificate chain and key, for mutual TLS.
            api_key: Sent as a bearer token with every call, also without TLS.
            timeout: Seconds that one unary request may take with its retries, where the call does
                not say; None is no limit.
            max_retries: Tries after the first.
            initial_backoff: Seconds that the first wait is below; each further may be twice that.
            max_message_bytes: Largest message to send or receive; at most the server's limit.
            keepalive: Seconds of silence after which a connection is probed. A server that allows
                fewer probes ends the connection, which is then opened again.
            user_agent: Put before the client's own.

        Raises ValueError for a certificate without TLS, OSError for a PEM file it cannot read.
        """
        self._endpoint = endpoint(
            server,
            tls=tls,
            certificate=certificate,
            api_key=api_key,
            max_message_bytes=max_message_bytes,
            keepalive=keepalive,
            user_agent=user_agent,
        )
        self._timeout = timeout
        self._retries = RetryPolicy(max_retries, initial_backoff)
        self._max_message_bytes = max_message_bytes
        self._open()

    def _open(self) -> None:
        """Opens the channel, where that may be done outside of a coroutine."""

    def _deadlines(self, timeout: float | None) -> Iterator[Deadline]:
        """The deadline of each unary request: that of the whole call, or else a new one each."""
        if timeout is not None:
            yield from itertools.repeat(Deadline(timeout))
        while True:
            yield Deadline(self._timeout)

    def _window(
        self,
        window: int,
        instruction: str | None,
        details: bool,
        on_error: str,
        timeout: float | None,
        options: Options,
    ) -> Window:
        """The state of a new stream, which is bulk work unless ``options`` say otherwise."""
        asked = call_options(**with_priority("bulk", options))
        return Window(
            Requests(asked, instruction, self._max_message_bytes),
            window,
            details=details,
            on_error=on_error,
            retries=self._retries,
            deadline=Deadline(timeout),
        )


def with_priority(default: Priority, options: Options) -> Options:
    """The options, with a priority where they have none."""
    return {**options, "priority": options.get("priority", default)}


def as_list(inputs: InputLike | Iterable[InputLike]) -> tuple[list[InputLike], bool]:
    """The inputs, and whether it is a single one."""
    if isinstance(inputs, Input | str) or not isinstance(inputs, Iterable):
        return [inputs], True
    return list(inputs), False


def embedded(
    found: list[Embedding], single: bool, details: bool
) -> Array | Embedding | list[Embedding]:
    """What embed returns; raises `SpaceChanged` where the vectors do not compare."""
    space = OneSpace()
    for embedding in found:
        space.check(embedding)
    if details:
        return found[0] if single else found
    if single:
        return found[0].vector
    return np.stack([item.vector for item in found]) if found else np.empty((0, 0), np.float32)
