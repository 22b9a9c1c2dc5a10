"""The elements that containers of media are made of: where they end, and the numbers in them."""

from collections.abc import Iterator

MOST_ELEMENTS = 1_000_000
"""Elements of a file that are walked through at most; one with more counts as whole."""
Ends = Iterator[int]
"""Where one element of a file after the other ends."""


def overshoots(ends: Ends, size: int) -> bool:
    """Says whether any of so many elements ends behind the ``size`` of the file."""
    for count, end in enumerate(ends):
        if end > size:
            return True
        if count > MOST_ELEMENTS:
            break
    return False


def number(data: bytes, place: int, length: int, order: str = "big") -> int:
    """Reads an unsigned number. Raises `IndexError` where the file ends before it does."""
    if place + length > len(data):
        raise IndexError(place)
    return int.from_bytes(data[place : place + length], "little" if order == "little" else "big")
