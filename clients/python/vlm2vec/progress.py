"""A bar that counts results."""

import operator
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """What moves."""

    def update(self, n: float = 1) -> object:
        """Moves on by ``n``."""


class _NoBar:
    def update(self, n: float = 1) -> None:
        """Shows nothing."""


def bar(enabled: bool, items: object) -> AbstractContextManager[Bar]:
    """A bar on standard error, with an end where ``items`` knows its length.

    Raises ImportError without tqdm.
    """
    if not enabled:
        return nullcontext(_NoBar())
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError("progress needs tqdm: pip install 'vlm2vec-client[extras]'") from error
    return tqdm(total=operator.length_hint(items) or None, unit="input")


def wanted(asked: bool | None) -> bool:
    """Whether to show a bar: where there is a terminal, unless told otherwise."""
    if asked is not None:
        return asked
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return sys.stderr.isatty()
