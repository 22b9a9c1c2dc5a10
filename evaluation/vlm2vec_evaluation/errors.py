"""What stops an evaluation."""

from vlm2vec_service.errors import Vlm2vecError


class EvaluationError(Vlm2vecError):
    """A suite, its data or a recorded evaluation is not what it should be."""
