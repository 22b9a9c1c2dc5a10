"""The caller of the request that is being answered."""

from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.pipeline import Caller, Pipeline


def caller_of(pipeline: Pipeline) -> Caller:
    """As the `Access` knows it; HTTP has no deadline of the caller's."""
    call = current.get()
    deadline = call.started + pipeline.settings.default_deadline_seconds
    return Caller(call.caller, deadline, call.identity, call.quota)
