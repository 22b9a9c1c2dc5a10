"""When a call that failed is made again, and until when."""

import math
import random
import time
from dataclasses import dataclass

import grpc

from vlm2vec import checks
from vlm2vec.errors import VLM2VecError

_DOUBLINGS = 64
"""How many times a wait may double before only its limit counts."""


class Deadline:
    """A moment after which nothing is tried any more."""

    def __init__(self, seconds: float | None, patient: bool = False) -> None:
        """Sets the moment ``seconds`` from now; None and infinity mean that there is no deadline.

        Until then, who is ``patient`` comes back however often a server is too busy. Raises
        TypeError for what is no number.
        """
        self.patient = patient
        if seconds is not None and checks.seconds("timeout", seconds) == math.inf:
            seconds = None
        self._end = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Returns the seconds left, 0 once it has passed, or None if there is no deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter, on top of the wait that the server asks for."""

    max_retries: int
    """How many times to try again after the first try."""
    initial_backoff: float
    """The longest first wait in seconds; each further one may be twice as long."""
    max_backoff: float = 30.0
    """The longest wait in seconds, beside what the server asks for."""

    def delay(self, error: VLM2VecError, attempt: int, deadline: Deadline) -> float | None:
        """Returns the seconds to wait before the next try, or None to give up.

        ``error`` is how try number ``attempt``, from 0, failed; ``deadline`` is the last moment to
        try again.
        """
        refused = error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        most = math.inf if refused and deadline.patient and self.max_retries else self.max_retries
        if attempt >= most or not error.retryable:
            return None
        longest = self.initial_backoff * 2.0 ** min(attempt, _DOUBLINGS)
        jitter = random.uniform(0, min(self.max_backoff, longest))
        delay = (error.retry_after or 0.0) + jitter
        remaining = deadline.remaining()
        return None if remaining is not None and delay >= remaining else delay
