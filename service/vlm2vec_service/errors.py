"""What can go wrong, by who has to act on it, and the status each becomes.

Every error that a caller may see derives from `Vlm2vecError`; its class decides the gRPC code and
the HTTP status, its message says which field or file is at fault and what to do next.
"""

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 20) -> str:
    """``names`` in order for a message, the first ``most`` of them and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


class Vlm2vecError(Exception):
    """Base of every error this package raises on purpose; by itself, a fault of ours.

    ``grpc_code`` is the number of a gRPC status code. ``retry_after`` is in seconds; None where
    trying again does not help.
    """

    grpc_code: int = 13  # INTERNAL
    http_status: int = 500
    field: str = ""
    retry_after: float | None = None


class InvalidInputError(Vlm2vecError):
    """The input itself is at fault: malformed, undecodable, too long or too large.

    ``field`` names the part of the input, as the caller wrote it (``images[2]``, ``text``).
    """

    grpc_code = 3  # INVALID_ARGUMENT
    http_status = 400

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class UnauthenticatedError(Vlm2vecError):
    """The caller's credential is missing or wrong."""

    grpc_code = 16  # UNAUTHENTICATED
    http_status = 401


class ForbiddenError(Vlm2vecError):
    """The caller is known, and may not do this."""

    grpc_code = 7  # PERMISSION_DENIED
    http_status = 403


class NotFoundError(Vlm2vecError):
    """The named model, version, alias, space or file does not exist."""

    grpc_code = 5  # NOT_FOUND
    http_status = 404


class CheckpointError(Vlm2vecError):
    """A checkpoint folder cannot be loaded: wrong architecture, files or tensors."""

    grpc_code = 9  # FAILED_PRECONDITION
    http_status = 409


class AdapterError(Vlm2vecError):
    """An adapter exists but cannot be loaded on this backbone, or is not loaded now."""

    grpc_code = 9  # FAILED_PRECONDITION
    http_status = 409


class ExhaustedError(Vlm2vecError):
    """The queue is full, or the caller's quota spent; nothing was done for this request."""

    grpc_code = 8  # RESOURCE_EXHAUSTED
    http_status = 429

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class UnavailableError(Vlm2vecError):
    """Starting, draining, or no worker is there."""

    grpc_code = 14  # UNAVAILABLE
    http_status = 503

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineError(Vlm2vecError):
    """The caller's deadline passed before there was an answer."""

    grpc_code = 4  # DEADLINE_EXCEEDED
    http_status = 504
