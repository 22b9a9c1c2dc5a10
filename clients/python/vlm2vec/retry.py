"""When to try again, and how long there is."""

import random
import time
from dataclasses import dataclass

from vlm2vec.errors import VLM2VecError


class Deadline:
    """A moment after which nothing is tried any more."""

    def __init__(self, seconds: float | None) -> None:
        """Lies ``seconds`` ahead; None is never."""
        self._end = None if seconds is None else time.monotonic() + seconds

    def remaining(self) -> float | None:
        """Seconds left, 0 when it has passed; None if there is no deadline."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())


@dataclass(frozen=True)
class RetryPolicy:
    """Exponential backoff with full jitter; the server's hint is the least wait."""

    max_retries: int
    """Tries after the first."""
    initial_backoff: float
    """Seconds that the first wait is below; each further one may be twice as long."""
    max_backoff: float = 30.0
    """Seconds that no wait without a hint exceeds."""

    def delay(self, error: VLM2VecError, attempt: int, deadline: Deadline) -> float | None:
        """Seconds to wait after ``error`` of try number ``attempt`` (from 0); None to give up."""
        if attempt >= self.max_retries or not error.retryable:
            return None
        jitter = random.uniform(0, min(self.max_backoff, self.initial_backoff * 2.0**attempt))
        delay = (error.retry_after or 0.0) + jitter
        remaining = deadline.remaining()
        return None if remaining is not None and delay >= remaining else delay
