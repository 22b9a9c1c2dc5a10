"""The caller of the request that is being answered."""

from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.request import Caller


def caller_of(pipeline: Pipeline) -> Caller:
    """Makes the caller of the current request; over HTTP callers set no deadline of their own."""
    return Caller.of_current_call(
        current.get().started + pipeline.settings.default_deadline_seconds
    )
