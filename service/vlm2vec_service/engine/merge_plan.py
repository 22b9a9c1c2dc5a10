"""Which version gets a merged copy next, and which copies leave for it.

Nothing here knows a tensor: versions are names, with the tokens that they lately had and the bytes
that a copy takes.
"""

import time
from collections.abc import Callable, Collection, Mapping

HALF_LIFE = 60.0
"""Seconds after which a token counts for half: long enough for a pause between two bursts, short
enough to follow a rollout."""
ADVANTAGE = 2.0
"""How many times the tokens of all copies that leave for it a version must have had. Below it, two
versions that are equally busy would take each other's place again and again."""


class TokenRates:
    """Tokens that each version lately had, of which half are forgotten every `HALF_LIFE`."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[str, tuple[float, float]] = {}

    def add(self, name: str, tokens: int) -> None:
        """Counts ``tokens`` for the version ``name``, now."""
        self._known[name] = (self.of(name) + tokens, self._clock())

    def of(self, name: str) -> float:
        """Returns what is left of the tokens of ``name``; 0 if it had none."""
        tokens, at = self._known.get(name, (0.0, 0.0))
        return float(tokens * 0.5 ** ((self._clock() - at) / HALF_LIFE))

    def forget(self, name: str) -> None:
        """Forgets ``name``, which may be unknown."""
        self._known.pop(name, None)

    def all(self) -> dict[str, float]:
        """Returns what is left of every version's tokens, by its name."""
        return {name: self.of(name) for name in list(self._known)}


def next_copy(
    tokens: Mapping[str, float],
    sizes: Mapping[str, int],
    held: Collection[str],
    budget: int,
    least: float,
) -> tuple[str, list[str]] | None:
    """Chooses the version to merge next: of those that may be, the one with the most ``tokens``.

    ``sizes`` has the bytes of each version's copy, ``held`` the names of the copies that there are.
    A version may be merged if it had at least ``least`` tokens and its copy fits into ``budget``
    bytes, if need be in the place of the least used ones; those must have had so few tokens that it
    has `ADVANTAGE` over all of them. Returns its name and the copies that have to leave first, or
    None if things should stay as they are.
    """
    by_tokens = sorted(held, key=lambda name: (tokens.get(name, 0.0), name))
    waiting = [
        name
        for name, size in sizes.items()
        if name not in held and size > 0 and tokens.get(name, 0.0) >= least
    ]
    for name in sorted(waiting, key=lambda name: (-tokens[name], name)):
        room = budget - sum(sizes[other] for other in held)
        leaving: list[str] = []
        lost = 0.0
        for other in by_tokens:
            lost += tokens.get(other, 0.0)
            if room >= sizes[name] or tokens[name] < ADVANTAGE * lost:
                break
            leaving.append(other)
            room += sizes[other]
        if room >= sizes[name]:
            return name, leaving
    return None
