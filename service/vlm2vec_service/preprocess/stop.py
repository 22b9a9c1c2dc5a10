"""When preprocessing an input stops early, and a file that stops whoever reads it."""

import io
import math
import time
from dataclasses import dataclass, field

from vlm2vec_service.errors import DeadlineError, InvalidInputError

CHECK_EVERY = 1000
"""Of so many single bytes that are read, the reader may be stopped before one."""


@dataclass(eq=False)
class Stop:
    """Until when an input is preprocessed; `check` is called wherever its decoding can stop.

    ``deadline`` is the caller's, in the time of ``time.monotonic``; ``seconds`` is the server's own
    limit, ``preprocess_seconds``, counted from ``started``. Any thread may call `cancel`.
    """

    deadline: float = math.inf
    seconds: float = math.inf
    started: float = field(default_factory=time.monotonic)

    def start(self) -> None:
        """Counts the server's seconds from now."""
        self.started = time.monotonic()

    def cancel(self) -> None:
        """Stops the decoding of an input for whose answer nobody waits any more."""
        self.deadline = -math.inf

    def check(self, field: str) -> None:
        """Raises `DeadlineError` when the deadline has passed, and `InvalidInputError` that names
        ``field`` when the input has taken longer than the server allows."""
        now = time.monotonic()
        if now >= self.deadline:
            raise DeadlineError("the deadline passed while the input was preprocessed")
        if now >= self.started + self.seconds:
            raise InvalidInputError(
                field,
                f"preprocessing the input takes longer than preprocess_seconds, {self.seconds:g}",
            )


NEVER = Stop()
"""Lets an input take as long as it takes. It is shared, and not to be cancelled."""


class StoppableFile(io.BytesIO):
    """The bytes of a file whose reader gets the exception of `Stop.check` instead of more bytes,
    once it is to stop."""

    def __init__(self, data: bytes, stop: Stop, field: str) -> None:
        super().__init__(data)
        self._stop = stop
        self._field = field
        self._single_bytes = 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as `io.BytesIO` does, unless the reader is to stop."""
        self._single_bytes += size == 1
        # Pillow reads some formats by the byte, and a look at the clock takes longer than that.
        if size != 1 or self._single_bytes % CHECK_EVERY == 0:
            self._stop.check(self._field)
        return super().read(size)


class StoppableMedia(StoppableFile):
    """Such a file for PyAV, which hands on one exception and writes others to standard error: the
    reader gets the exception once, and then the end of the file."""

    _ended = False

    def read(self, size: int | None = -1, /) -> bytes:
        """Reads as `StoppableFile` does, and nothing once that has raised."""
        if self._ended:
            return b""
        self._ended = True
        data = super().read(size)
        self._ended = False
        return data
