"""The errors of this client: one class for each way in which a call can fail."""

import re
from collections.abc import Iterable
from typing import ClassVar, cast

import grpc

from vlm2vec.v1 import embedding_pb2 as pb


class VLM2VecError(Exception):
    """Base of all errors of this client, and the class of those whose code has no other class."""

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.UNKNOWN
    """The status code of an error that is raised without one."""

    code: grpc.StatusCode
    """The gRPC status code."""
    message: str
    """A sentence that says what is wrong; of an input at fault it names the field and the limit."""
    field: str
    """The field at fault, such as ``input.parts[0].image``; empty where no field is known to be."""
    retry_after: float | None
    """Seconds after which it makes sense to try again; None where the server does not say."""
    id: int | str | None
    """The id of the item, or the index of the input, that failed; None where it is not known."""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        field: str = "",
        retry_after: float | None = None,
        id: int | str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code or self.default_code
        self.message = message
        self.field = field
        self.retry_after = retry_after
        self.id = id

    @property
    def retryable(self) -> bool:
        """Whether it can help to make the same call again.

        It can after UNAVAILABLE, hint or not, because a broken connection gives no hint. It can
        after RESOURCE_EXHAUSTED where the server says when; otherwise that is a limit, which
        waiting does not lift.
        """
        if self.code is grpc.StatusCode.RESOURCE_EXHAUSTED:
            return self.retry_after is not None
        return self.code is grpc.StatusCode.UNAVAILABLE


class InvalidInput(VLM2VecError):
    """An input cannot be embedded: unreadable, undecodable or over a limit (INVALID_ARGUMENT)."""

    default_code = grpc.StatusCode.INVALID_ARGUMENT


class NotFound(VLM2VecError):
    """There is no such model, alias, version or space (NOT_FOUND)."""

    default_code = grpc.StatusCode.NOT_FOUND


class FailedPrecondition(VLM2VecError):
    """The model is not in a state to answer as asked (FAILED_PRECONDITION)."""

    default_code = grpc.StatusCode.FAILED_PRECONDITION


class SpaceChanged(FailedPrecondition):
    """Vectors of one call are of different spaces and do not compare; pin a version or a space."""


class Unauthenticated(VLM2VecError):
    """The API key or certificate is missing or wrong (UNAUTHENTICATED)."""

    default_code = grpc.StatusCode.UNAUTHENTICATED


class PermissionDenied(VLM2VecError):
    """The key does not allow this (PERMISSION_DENIED)."""

    default_code = grpc.StatusCode.PERMISSION_DENIED


class ResourceExhausted(VLM2VecError):
    """A rate or a size is over a limit (RESOURCE_EXHAUSTED)."""

    default_code = grpc.StatusCode.RESOURCE_EXHAUSTED


class Unavailable(VLM2VecError):
    """The server cannot be reached or cannot answer now (UNAVAILABLE)."""

    default_code = grpc.StatusCode.UNAVAILABLE


class DeadlineExceeded(VLM2VecError):
    """The timeout ran out before the answer came (DEADLINE_EXCEEDED)."""

    default_code = grpc.StatusCode.DEADLINE_EXCEEDED


class Internal(VLM2VecError):
    """The server failed, or answered what its contract does not allow (INTERNAL)."""

    default_code = grpc.StatusCode.INTERNAL


_CLASSES: dict[grpc.StatusCode, type[VLM2VecError]] = {
    kind.default_code: kind
    for kind in (
        InvalidInput,
        NotFound,
        FailedPrecondition,
        Unauthenticated,
        PermissionDenied,
        ResourceExhausted,
        Unavailable,
        DeadlineExceeded,
        Internal,
    )
}
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}


# What gRPC says of its own, and what to do about it.
_HINTS = (
    ("^Deadline Exceeded$", "the timeout ran out before the answer: give a longer timeout"),
    ("^CLIENT: Received message larger", "raise max_message_bytes"),
    ("fail.*WRONG_VERSION_NUMBER", "the server has no TLS there: leave out tls"),
    ("fail.*CERTIFICATE_VERIFY_FAILED", "name its authority: tls='ca.pem'"),
    (
        "fail.*(Socket closed|Connection reset)",
        "the server may want TLS (tls=True), or a certificate= of the caller",
    ),
)

# A status has no field but in its message, "inputs[2].parts[0].image: not an image".
_FIELD = re.compile(r"(?:inputs?|query|candidates|options)\b[\w.\[\]]*(?=: )")


def _cut_off(error: grpc.RpcError) -> bool:
    """Tells whether the call was cut off on its way, so that ``error`` is no answer of the server.

    A proxy that loses its server in the middle resets the stream, which gRPC calls INTERNAL. A
    server that stops cancels what it has not begun. A call that we cancel has other details.
    """
    code, details = error.code(), error.details() or ""
    if code is grpc.StatusCode.CANCELLED:
        return details == "CANCELLED"
    return code is grpc.StatusCode.INTERNAL and details.startswith("Received RST_STREAM")


def from_rpc(error: grpc.RpcError) -> VLM2VecError:
    """Returns the error of a failed call, of the class of its status code."""
    code = error.code()
    message = error.details() or code.name
    message = "; ".join([message, *(hint for said, hint in _HINTS if re.search(said, message))])
    if _cut_off(error):
        code = grpc.StatusCode.UNAVAILABLE
    field = _FIELD.match(message) if code is grpc.StatusCode.INVALID_ARGUMENT else None
    return _CLASSES.get(code, VLM2VecError)(
        message,
        code=code,
        field=field.group() if field else "",
        retry_after=_retry_after(error),
    )


def from_item(error: pb.Error, id: int | str) -> VLM2VecError:
    """Returns the error of the item ``id`` of a stream, of the class of its status code."""
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return _CLASSES.get(code, VLM2VecError)(
        error.message or code.name,
        code=code,
        field=error.field,
        retry_after=error.retry_after_seconds or None,
        id=id,
    )


def _retry_after(error: grpc.RpcError) -> float | None:
    """Returns the value of the trailer ``retry-after-ms`` in seconds, or None without it."""
    trailers = cast(Iterable[tuple[str, str | bytes]], error.trailing_metadata() or ())
    for key, value in trailers:
        if key == "retry-after-ms":
            try:
                return max(0.0, float(value) / 1000)
            except ValueError:
                return None
    return None
