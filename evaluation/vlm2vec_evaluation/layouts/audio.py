"""Data sets of sound, which are counted and cannot be embedded yet."""

from typing import NoReturn

from vlm2vec_evaluation.errors import UnsupportedError
from vlm2vec_evaluation.layouts.source import Source
from vlm2vec_evaluation.task import PoolTask


def read(source: Source) -> PoolTask:
    """Makes a task that no model takes: going through it raises `UnsupportedError`."""
    return source.task(_refuse, _refuse)


def _refuse() -> NoReturn:
    raise UnsupportedError("inputs of audio are not embedded yet")
