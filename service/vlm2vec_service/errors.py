"""What can go wrong, by who has to act on it, and the code that each becomes.

Every error that a caller may see derives from `ServeError`; its class decides the code, its message
says which field or file is at fault and what to do next.
"""

import re
from collections.abc import Iterable

from vlm2vec_registry.errors import Code, ServeError

__all__ = [
    "AdapterError", "CheckpointError", "Code", "DeadlineError", "ExhaustedError", "ForbiddenError",
    "InvalidInputError", "NotFoundError", "ServeError", "StartError", "UnauthenticatedError",
    "UnavailableError", "WorkerLostError", "listed", "without_paths",
]  # fmt: skip


PATH = re.compile(r"(?<![\w:/.])/(?:[^\s/:;,'\"()]+/)+([^\s/:;,'\"()]+)")
"""An absolute path of two names or more; a URL's is none."""


def listed(names: Iterable[str], most: int = 20) -> str:
    """``names`` in order for a message, the first ``most`` of them and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


def without_paths(text: str) -> str:
    """Leaves of each absolute path in ``text`` its last name: where files lie on a server is
    nothing for its callers."""
    return PATH.sub(r"\1", text)


class InvalidInputError(ServeError):
    """The input itself is at fault: malformed, undecodable, too long or too large.

    ``field`` names the part of the input, as the caller wrote it (``images[2]``, ``text``).
    """

    code = Code.INVALID_ARGUMENT

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnauthenticatedError(ServeError):
    """The caller's credential is missing or wrong."""

    code = Code.UNAUTHENTICATED


class ForbiddenError(ServeError):
    """The caller is known, and may not do this."""

    code = Code.PERMISSION_DENIED


class NotFoundError(ServeError):
    """The named model, version, alias or space does not exist."""

    code = Code.NOT_FOUND


class StartError(ServeError):
    """The process cannot start as it was told to: a port, a flag or a file that whoever started it
    has to mend. No caller ever sees it. ``field`` is the setting at fault, if it is one, and named
    as its flag is."""

    def __init__(self, problem: str, field: str = "") -> None:
        super().__init__(f"--{field.replace('_', '-')}: {problem}" if field else problem)
        self.field = field


class CheckpointError(ServeError):
    """A checkpoint folder cannot be loaded: wrong architecture, files or tensors."""

    code = Code.FAILED_PRECONDITION


class AdapterError(ServeError):
    """An adapter exists but cannot be loaded on this backbone, or is not loaded now."""

    code = Code.FAILED_PRECONDITION


class ExhaustedError(ServeError):
    """The queue is full, or the caller's quota spent; nothing was done for this request."""

    code = Code.RESOURCE_EXHAUSTED

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(ServeError):
    """Starting, draining, or no worker is there."""

    code = Code.UNAVAILABLE

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class WorkerLostError(UnavailableError):
    """The worker died, hung or was cut off before it answered; nobody knows what it had done."""


class DeadlineError(ServeError):
    """The caller's deadline passed before there was an answer."""

    code = Code.DEADLINE_EXCEEDED
