"""Errors of training that a user can mend."""

from vlm2vec_service.errors import Code, ServeError


class DataError(ServeError):
    """The training data or its settings are at fault; the message names file, line and field."""

    code = Code.INVALID_ARGUMENT


class TrainingError(ServeError):
    """Training cannot start or go on with these settings."""

    code = Code.FAILED_PRECONDITION
