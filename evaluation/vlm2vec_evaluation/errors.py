"""The error that stops an evaluation."""

from vlm2vec_service.errors import ServeError


class EvaluationError(ServeError):
    """A suite, its data or a recorded evaluation is not what it should be."""


class UnsupportedError(EvaluationError):
    """The model cannot take the inputs of a data set."""
