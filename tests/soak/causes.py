"""Why a call may fail: errors that a caller has to expect, each for its cause and in its time."""

import re
from dataclasses import dataclass

from tests.soak.timeline import Timeline

RESTART, OUTAGE, DAMAGE, CANARY = "restart", "outage", "damage", "canary"
REPUBLISHED = "republished"
"""Names of spans in which something is broken, and of the canary's."""
LATE = 20.0
"""Seconds after an outage or damage in which a version may wait for its next try."""


@dataclass(frozen=True)
class Cause:
    """An error that is as it should be: its codes, what its message says, and the span, with
    ``late`` more seconds, without which it is not; an empty one is any time."""

    name: str
    codes: tuple[str, ...]
    message: str = ""
    span: str = ""
    late: float = 1.0


CAUSES = (
    Cause("overloaded", ("RESOURCE_EXHAUSTED",), r"the queue (is full|takes about)"),
    Cause("memory held", ("RESOURCE_EXHAUSTED",), r"too much memory is held"),
    Cause("no room for a version", ("RESOURCE_EXHAUSTED",), r"there is no room"),
    # A call that gRPC's server had received and not begun when it stopped is CANCELLED.
    Cause("restart", ("UNAVAILABLE", "CANCELLED", "HTTP closed", "HTTP 503"), span=RESTART),
    *(
        Cause(
            "registry not heard of", ("UNAVAILABLE", "HTTP 503"),
            r"registry has not answered yet|is not loaded yet", span, LATE,
        )
        for span in (RESTART, OUTAGE)
    ),
    Cause(
        "registry away", ("UNAVAILABLE", "FAILED_PRECONDITION", "HTTP 409", "HTTP 503"),
        r"could not be loaded|MLflow", OUTAGE, LATE,
    ),
    Cause(
        "cache damaged", ("UNAVAILABLE", "FAILED_PRECONDITION", "HTTP 409", "HTTP 503"),
        r"could not be loaded", DAMAGE, LATE,
    ),
    Cause(
        "published anew", ("NOT_FOUND", "FAILED_PRECONDITION", "HTTP 404", "HTTP 409"),
        r"has no (version|alias)|was retired", REPUBLISHED,
    ),
)  # fmt: skip


def cause_of(code: str, message: str, since: float, until: float, timeline: Timeline) -> str:
    """The name of the cause of an error to a call that ran between two moments; empty if it has
    none."""
    for cause in CAUSES:
        if code not in cause.codes or not re.search(cause.message, message):
            continue
        if not cause.span or timeline.between(cause.span, since - cause.late, until):
            return cause.name
    return ""
