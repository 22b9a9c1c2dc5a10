"""What can go wrong, by who has to act on it.

Every error that a caller may see derives from `Vlm2vecError`; its class decides the status
that the caller gets, its message says which field or file is at fault and what to do next.
"""

from collections.abc import Iterable


def listed(names: Iterable[str], most: int = 20) -> str:
    """``names`` in order for a message, the first ``most`` of them and how many more there are."""
    ordered = sorted(names)
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return ", ".join(ordered[:most]) + more


class Vlm2vecError(Exception):
    """Base of every error this package raises on purpose."""


class InvalidInputError(Vlm2vecError):
    """The input itself is at fault: malformed, undecodable, too long or too large.

    ``field`` names the part of the input, as the caller wrote it (``images[2]``, ``text``).
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field


class NotFoundError(Vlm2vecError):
    """The named model, adapter or file does not exist."""


class CheckpointError(Vlm2vecError):
    """A checkpoint folder cannot be loaded: wrong architecture, files or tensors."""


class AdapterError(Vlm2vecError):
    """An adapter exists but cannot be loaded on this backbone."""
