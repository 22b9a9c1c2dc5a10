"""Checks of settings and arguments: what is wrong is said by name, before anything is sent."""

import math
import operator
from typing import SupportsIndex


def whole(name: str, value: SupportsIndex, least: int) -> int:
    """Returns a whole number, called ``name`` in errors.

    Raises TypeError for anything else, and ValueError for one below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} is {type(value).__name__}, not a whole number") from None
    if number < least:
        raise ValueError(f"{name} is {number}, not at least {least}")
    return number


def seconds(name: str, value: float, least: float = -math.inf) -> float:
    """Returns a number of seconds, called ``name`` in errors; infinity is one.

    Raises TypeError for anything else, and ValueError for NaN and for one below ``least``.
    """
    if isinstance(value, str | bytes) or not hasattr(value, "__float__"):
        raise TypeError(f"{name} is {type(value).__name__}, not a number of seconds")
    number = float(value)
    if math.isnan(number) or number < least:
        raise ValueError(f"{name} is {number:g}, not at least {max(0.0, least):g} seconds")
    return number
