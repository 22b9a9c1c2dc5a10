"""What a soak found, as an object and as a table."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tests.soak.ledger import Ledger, PathCount
from tests.soak.probe import Stops
from tests.soak.residents import Residents

FATAL = ("wrong", "lost", "twice", "unexpected", "unhealed", "left behind")
"""What must be 0."""


@dataclass(frozen=True)
class Report:
    """The result of a run of so many ``minutes``, with the ``seed`` to repeat it."""

    minutes: float
    seed: int
    ledger: Ledger
    residents: Residents
    stops: Stops

    @property
    def faults(self) -> Counter[str]:
        """How many of each kind."""
        return Counter({kind: self.ledger.faults[kind] for kind in FATAL})

    @property
    def good(self) -> bool:
        """Whether there is none."""
        return not self.faults.total()

    def table(self) -> str:
        """All of it, for a person."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.minutes:g} minutes, seed {self.seed}"
        yield ""
        yield f"{'path':<16}{'asked':>8}{'right':>8}{'failed':>8}{'p50 ms':>9}{'p99 ms':>9}"
        for path, count in sorted(self.ledger.paths.items()):
            yield _path_line(path, count)
        yield _path_line("all", _sum(list(self.ledger.paths.values())))
        yield ""
        yield ", ".join(f"{kind} {number}" for kind, number in self.faults.items())
        for item, number in sorted(self.ledger.known.items()):
            yield f"known, item {item}: {number}"
        yield from self._counts("errors by code and cause", {
            f"{code}, {cause}": count for (code, cause), count in self.ledger.errors.items()
        })  # fmt: skip
        yield from self._counts("events", self.ledger.events)
        kinds = len(self.ledger.malformed)
        yield f"malformed requests: {self.ledger.malformed.total()} of {kinds} kinds"
        yield ""
        yield f"{'resident, MB':<16}{'start':>8}{'peak':>8}{'end':>8}"
        for name, start in self.residents.start.items():
            peak, end = self.residents.peak[name], self.residents.end[name]
            yield f"{name:<16}{start:>8.0f}{peak:>8.0f}{end:>8.0f}"
        yield (
            f"longest stop of the event loop: {1000 * self.stops.longest:.0f} ms; "
            f"{self.stops.long} longer than 50 ms"
        )
        if self.ledger.described:
            yield ""
            yield f"to repeat: python -m tests.soak --minutes {self.minutes:g} --seed {self.seed}"
            yield from self.ledger.described

    def _counts(self, title: str, counts: dict[str, int]) -> Iterator[str]:
        yield f"{title}:"
        for name, count in sorted(counts.items()):
            yield f"    {name:<48}{count:>8}"


def _path_line(path: str, count: PathCount) -> str:
    p50, p99 = np.percentile(count.seconds or [0.0], [50, 99]) * 1000
    numbers = f"{count.asked:>8}{count.right:>8}{count.failed:>8}{p50:>9.0f}{p99:>9.0f}"
    return f"{path:<16}{numbers}"


def _sum(counts: list[PathCount]) -> PathCount:
    return PathCount(
        sum(count.asked for count in counts),
        sum(count.right for count in counts),
        sum(count.failed for count in counts),
        [seconds for count in counts for seconds in count.seconds],
    )
