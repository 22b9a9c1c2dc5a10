"""Codes of errors, their base class, and what can go wrong with a registry.

They are here, in the lowest package, so that every package of the server has one base: whoever
catches `ServeError` has caught all that is raised on purpose.
"""

from enum import IntEnum
from typing import Self


class Code(IntEnum):
    """How a call ended: gRPC's status codes by number, and the HTTP status of each.

    Calls of every protocol are counted and logged under these names.
    """

    http_status: int

    def __new__(cls, number: int, http_status: int = 500) -> Self:
        """Makes the member of this ``number``."""
        code = int.__new__(cls, number)
        code._value_ = number
        code.http_status = http_status
        return code

    OK = 0, 200
    CANCELLED = 1, 499
    UNKNOWN = 2, 500
    INVALID_ARGUMENT = 3, 400
    DEADLINE_EXCEEDED = 4, 504
    NOT_FOUND = 5, 404
    ALREADY_EXISTS = 6, 409
    PERMISSION_DENIED = 7, 403
    RESOURCE_EXHAUSTED = 8, 429
    FAILED_PRECONDITION = 9, 409
    ABORTED = 10, 409
    OUT_OF_RANGE = 11, 400
    UNIMPLEMENTED = 12, 501
    INTERNAL = 13, 500
    UNAVAILABLE = 14, 503
    DATA_LOSS = 15, 500
    UNAUTHENTICATED = 16, 401


class ServeError(Exception):
    """Base of every error that is raised on purpose; by itself, a fault of ours.

    The message says which field, flag or file is at fault, and what to do next. ``code`` is what
    a caller gets, ``field`` the part of the request it is about, ``retry_after`` seconds after
    which trying again may help, or None where it does not.
    """

    code: Code = Code.INTERNAL
    field: str = ""
    retry_after: float | None = None

    @property
    def http_status(self) -> int:
        """The status over HTTP."""
        return self.code.http_status


class RegistryError(ServeError):
    """Base of what a registry raises."""


class RegistryInputError(RegistryError):
    """What was asked for makes no sense to any registry: its URI, or the name of a model."""

    code = Code.INVALID_ARGUMENT


class ArtifactError(RegistryError):
    """An adapter version is not what it should be: its files, their digests, its base."""

    code = Code.FAILED_PRECONDITION


class MissingError(RegistryError):
    """The registry knows no such model, version or alias."""

    code = Code.NOT_FOUND


class OutageError(RegistryError):
    """The registry could not be asked, or its answer makes no sense."""

    code = Code.UNAVAILABLE
