"""A field of the settings: its default, what ``--help`` says of it, and what its value may be."""

from collections.abc import Sequence
from dataclasses import field
from typing import Any

MOST_SECONDS = 2_000_000.0
"""Three weeks: gRPC counts milliseconds in 32 bits."""
MOST_INT32 = 2**31 - 1
"""What gRPC takes as a number at most."""


def setting(
    default: Any,
    help: str,
    *,
    least: float | None = None,
    most: float | None = None,
    choices: Sequence[str] = (),
    kind: str = "",
    unit: str = "",
) -> Any:
    """A dataclass field with a default and the sentence that ``--help`` shows for it.

    A number has to lie between ``least`` and ``most``, a text to be one of ``choices`` or of a
    ``kind`` that `vlm2vec_service.options` knows. ``unit`` stands for the value in ``--help``;
    without one that is the last word of the name.
    """
    limits = {"least": least, "most": most, "choices": choices, "kind": kind, "unit": unit}
    return field(default=default, metadata={"help": help, **limits})


def count(default: int, help: str, most: float | None = None, unit: str = "") -> Any:
    """A `setting` that is a whole number from 1 on."""
    return setting(default, help, least=1, most=most, unit=unit)


def seconds(default: float, help: str, least: float = 0.0) -> Any:
    """A `setting` that is a time."""
    return setting(default, help, least=least, most=MOST_SECONDS)
