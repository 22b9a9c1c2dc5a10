"""Faults of the service that are known, and being mended: counted apart, and not a failure.

Take a line out when its item is done: the soak then holds it.
"""

import re

KNOWN: dict[str, str] = {}
"""The item of the issue that mends a fault, by what the description of the fault matches."""


def known_item(fault: str) -> str:
    """The item that mends ``fault``; empty if nobody knows it."""
    return next((item for pattern, item in KNOWN.items() if re.search(pattern, fault)), "")
