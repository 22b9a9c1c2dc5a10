"""Errors as OpenAI's API and KServe's protocol write them: the JSON body, the headers, and the
names of fields."""

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

import orjson
from pydantic import BaseModel

from vlm2vec_service.errors import InvalidInputError, ServeError, UnavailableError

TYPES = {
    400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
    404: "not_found_error", 409: "conflict_error", 429: "rate_limit_error",
    502: "origin_error", 503: "unavailable_error", 504: "timeout_error",
}  # fmt: skip
NAMES = {
    "options.model": "model", "model.name": "model", "options.output.dimensions": "dimensions",
    "options.routing_key": "user", "options.truncate": "truncate_prompt_tokens",
}  # fmt: skip
"""The fields of gRPC's requests that have another name over HTTP, with that name."""

MOST_CHARACTERS = 2000
"""Of a message, which may quote what the caller sent."""


class ErrorDetail(BaseModel):
    """What went wrong: a sentence, one of `TYPES`, the field at fault, and gRPC's code."""

    message: str
    type: str
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class KserveError(BaseModel):
    """The body of every answer by KServe's protocol that is not a success: a sentence."""

    error: str


class RequestError(InvalidInputError):
    """A faulty request for which HTTP has a status of its own: 405, 408, 413 or 415; and
    ``headers``, if that status has any."""

    def __init__(
        self, status: int, field: str, problem: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(field, problem)
        self._status = status
        self.headers = headers or {}

    @property
    def http_status(self) -> int:
        """The status that the error was made with."""
        return self._status


class OriginError(UnavailableError):
    """Nothing came from the origin of a URL that a request named, and trying again may help: 502,
    503 or 504, by what was wrong there. ``field`` is where the URL stands."""

    def __init__(self, status: int, field: str, problem: str, retry_after: float = 1.0) -> None:
        super().__init__(f"{field}: {problem}", retry_after)
        self.field = field
        self._status = status

    @property
    def http_status(self) -> int:
        """The status that the error was made with."""
        return self._status


def renamed(error: ServeError) -> ServeError:
    """The error with the name that its field has over HTTP; errors without a field as they are."""
    if not isinstance(error, InvalidInputError) or isinstance(error, RequestError):
        return error
    for name, here in NAMES.items():
        if error.field.startswith(name):
            rest = "" if here == "model" else error.field.removeprefix(name)
            return InvalidInputError(here + rest, error.problem)
    return error


def error_body(error: ServeError, path: str) -> bytes:
    """Writes the JSON of an `ErrorBody`; on a ``path`` of KServe's of a `KserveError`."""
    status = error.http_status
    message = str(error)
    if len(message) > MOST_CHARACTERS:
        message = f"{message[:MOST_CHARACTERS]}..."
    # What the caller wrote may be in it, and half of a surrogate pair is not to be encoded.
    message = message.encode(errors="replace").decode()
    if path == "/v2" or path.startswith(("/v2/models/", "/v2/health/")):
        return orjson.dumps({"error": message})
    detail = {
        "message": message,
        "type": TYPES.get(status, "server_error" if status >= 500 else TYPES[400]),
        "param": error.field.encode(errors="replace").decode() or None,
        "code": error.code.name.lower(),
    }
    return orjson.dumps({"error": detail})


def error_headers(error: ServeError) -> dict[str, str]:
    """The headers of an answer with ``error``.

    They say when to come back, how to show a credential, and that the connection closes where the
    body was not read.
    """
    headers = {"content-type": "application/json"}
    if error.retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(error.retry_after)))
        headers["retry-after-ms"] = str(max(1, round(error.retry_after * 1000)))
    if error.http_status == 401:
        headers["www-authenticate"] = "Bearer"
    if isinstance(error, RequestError):
        headers |= error.headers
    if error.http_status in (408, 413, 415, 503):
        headers["connection"] = "close"
    return headers


Responses: TypeAlias = dict[int | str, dict[str, Any]]
RESPONSES: Responses = {
    status: {"model": ErrorBody, "description": text}
    for status, text in {
        400: "Malformed: the message names the field and the limit.",
        401: "No credential, or not one that is known.",
        403: "The caller may not do this, or not with this model.",
        404: "No such model, alias, version or space.",
        408: "The body did not arrive in time.",
        409: "The version exists, but cannot be loaded.",
        413: "The body is too large, as it came or inflated.",
        415: "The body is compressed in a way that is unknown here.",
        429: "The queue is full or the quota spent; see retry-after.",
        500: "A fault of ours.",
        502: "The origin of a URL failed; see retry-after.",
        503: "Starting or shutting down, or too many connections; see retry-after.",
        504: "The time limit passed.",
    }.items()
}
