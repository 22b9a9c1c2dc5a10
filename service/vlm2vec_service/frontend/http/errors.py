"""Errors as OpenAI's API writes them."""

import math
from typing import Any

import orjson
from pydantic import BaseModel

from vlm2vec_service.errors import InvalidInputError, ServeError

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 429: "rate_limit_error",
    503: "unavailable_error", 504: "timeout_error",
}  # fmt: skip
NAMES = {
    "options.model": "model", "model.name": "model", "options.output.dimensions": "dimensions",
    "options.routing_key": "user", "inputs": "input", "candidates": "documents",
}  # fmt: skip
"""What a request's field is called here, where gRPC calls it something else."""


class ErrorDetail(BaseModel):
    """What went wrong: a sentence, a class of errors, the field at fault, and a code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class RequestError(InvalidInputError):
    """A request that HTTP has a status of its own for: 404, 405, 408, 413."""

    def __init__(self, status: int, field: str, problem: str) -> None:
        super().__init__(field, problem)
        self._status = status

    @property
    def http_status(self) -> int:
        """The status it was made with."""
        return self._status


def renamed(error: ServeError) -> ServeError:
    """An error of a field, by the name that the field has over HTTP."""
    if not isinstance(error, InvalidInputError) or isinstance(error, RequestError):
        return error
    for name, here in NAMES.items():
        if error.field.startswith(name):
            rest = "" if here == "model" else error.field.removeprefix(name)
            return InvalidInputError(here + rest, error.problem)
    return error


def error_body(error: ServeError) -> bytes:
    """The JSON of an `ErrorBody`."""
    status = error.http_status
    detail = {
        # What the caller wrote may be in it, and half of a surrogate pair is not to be encoded.
        "message": str(error).encode(errors="replace").decode(),
        "type": TYPES.get(status, "server_error" if status >= 500 else TYPES[400]),
        "param": error.field.encode(errors="replace").decode() or None,
        "code": error.code.name.lower(),
    }
    return orjson.dumps({"error": detail})


def error_headers(error: ServeError) -> dict[str, str]:
    """Headers that go with it: when to come back, what to send, that the body is not read."""
    headers = {"content-type": "application/json"}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(max(1, round(error.retry_after * 1000)))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if error.http_status in (408, 413, 503):
        headers["connection"] = "close"
    return headers


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "Malformed: the message names the field and the limit.",
        401: "No credential, or not one that is known.",
        403: "The caller may not do this, or not with this model.",
        404: "No such model, alias, version or space.",
        408: "The body did not arrive in time.",
        409: "The version exists, but cannot be loaded.",
        413: "The body is too large.",
        429: "The queue is full or the quota spent; see retry-after.",
        500: "A fault of ours.",
        503: "Starting or shutting down; see retry-after.",
        504: "The time limit passed.",
    }.items()
}
