"""A progress bar, in a notebook or on standard error, which counts results."""

import sys
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Bar(Protocol):
    """The part of a tqdm bar that is used: it counts up."""

    def update(self, n: float = 1) -> object:
        """Counts ``n`` more."""


class _NoBar:
    def update(self, n: float = 1) -> None:
        """Does nothing."""


def bar(enabled: bool, total: int | None) -> AbstractContextManager[Bar]:
    """Returns a bar, or one that shows nothing if it is not ``enabled``.

    The bar ends at ``total``, if that is known. Raises ImportError without tqdm.
    """
    if not enabled:
        return nullcontext(_NoBar())
    try:
        from tqdm.auto import tqdm
    except ImportError as error:
        raise ImportError("progress needs tqdm: pip install 'vlm2vec-client[extras]'") from error
    return tqdm(total=total, unit="input")


def wanted(asked: bool | None) -> bool:
    """Tells whether to show a bar: as ``asked``; for None, if there are tqdm and a terminal."""
    if asked is not None:
        return asked
    try:
        import tqdm  # noqa: F401
    except ImportError:
        return False
    return sys.stderr.isatty()
