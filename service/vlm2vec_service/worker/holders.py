"""Which front ends want which adapters: a worker lets one go when the last of them does."""

import time
from collections import defaultdict

LAPSED_SECONDS = 60.0
"""A front end that was not heard of for so long holds nothing any more; one that lives asks for the
worker's status every few seconds."""


class Holders:
    """The front ends that hold each adapter. ``holder`` is the name that one gave itself; one
    without a name is the worker's only one. Single-threaded: the event loop's."""

    def __init__(self) -> None:
        self._holders: defaultdict[str, set[str]] = defaultdict(set)
        self._heard: dict[str, float] = {}

    def heard(self, holder: str) -> None:
        """Notes that ``holder`` lives."""
        if holder:
            self._heard[holder] = time.monotonic()

    def hold(self, adapter: str, holder: str) -> None:
        """Notes that ``holder`` wants ``adapter``."""
        self.heard(holder)
        self._holders[adapter].add(holder)

    def let_go(self, adapter: str, holder: str) -> bool:
        """Notes that ``holder`` does not want ``adapter`` any more. Returns whether nobody else
        does."""
        self.heard(holder)
        others = self._others(adapter, holder)
        if others:
            self._holders[adapter] = others
        else:
            self._holders.pop(adapter, None)
        return not others

    def held_by_others(self, adapter: str, holder: str) -> bool:
        """Whether another front end that lives wants ``adapter``."""
        return bool(holder and self._others(adapter, holder))

    def lapsed(self) -> list[str]:
        """The adapters that only front ends wanted which were not heard of for long; nobody holds
        them from now on."""
        lapsed = [name for name in self._holders if not self._others(name, "")
                  and "" not in self._holders[name]]  # fmt: skip
        for name in lapsed:
            del self._holders[name]
        since = time.monotonic() - LAPSED_SECONDS
        self._heard = {name: heard for name, heard in self._heard.items() if heard > since}
        return lapsed

    def _others(self, adapter: str, holder: str) -> set[str]:
        since = time.monotonic() - LAPSED_SECONDS
        held = self._holders.get(adapter, set())
        return {name for name in held if name != holder and self._heard.get(name, 0.0) > since}
