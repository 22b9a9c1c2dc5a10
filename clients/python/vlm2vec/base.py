"""What the two clients share: their settings, and the parts of their calls that need no I/O."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np

from vlm2vec.endpoint import endpoint
from vlm2vec.inputs import Input, InputLike
from vlm2vec.media import FilePath
from vlm2vec.options import Options, Priority, call_options
from vlm2vec.results import Embedding, OneSpace
from vlm2vec.retry import Deadline, RetryPolicy
from vlm2vec.stream_items import StreamRequests
from vlm2vec.unary_requests import MAX_INPUTS
from vlm2vec.vectors import Array
from vlm2vec.window import Window

STREAM_ABOVE = 4 * MAX_INPUTS
"""How many inputs embed may have before it opens a stream instead of making unary calls."""


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
            keepalive: Seconds of silence after which a connection is probed. A server that allows
                fewer probes ends the connection, which is then opened again.
            user_agent: A name of the caller, which is put before that of this client.

        Raises ValueError for a certificate without TLS, and OSError for a PEM file that cannot be
        read.
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
        """Opens the channel, in clients whose channel may be opened outside of a coroutine."""

    def _deadlines(self, timeout: float | None) -> Iterator[Deadline]:
        """Yields the deadline of each unary request.

        With a ``timeout`` it is that of the whole call; otherwise each request has a new one.
        """
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
        """Makes the state of a new stream, which is bulk work unless ``options`` say otherwise."""
        asked = call_options(**with_priority("bulk", options))
        return Window(
            StreamRequests(asked, instruction, self._max_message_bytes),
            window,
            details=details,
            on_error=on_error,
            retries=self._retries,
            deadline=Deadline(timeout),
        )


def with_priority(default: Priority, options: Options) -> Options:
    """Returns the options, with the priority ``default`` if they have none."""
    return {**options, "priority": options.get("priority", default)}


def as_list(inputs: InputLike | Iterable[InputLike]) -> tuple[list[InputLike], bool]:
    """Returns the inputs as a list, and whether the caller gave a single one."""
    if isinstance(inputs, Input | str) or not isinstance(inputs, Iterable):
        return [inputs], True
    return list(inputs), False


def embedded(
    found: list[Embedding], single: bool, details: bool
) -> Array | Embedding | list[Embedding]:
    """Returns what embed returns for the embeddings ``found``, which are in the inputs' order.

    Raises `SpaceChanged` if they are not all of one space.
    """
    space = OneSpace()
    for embedding in found:
        space.check(embedding)
    if details:
        return found[0] if single else found
    if single:
        return found[0].vector
    return np.stack([item.vector for item in found]) if found else np.empty((0, 0), np.float32)
