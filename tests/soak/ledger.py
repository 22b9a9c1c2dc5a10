"""Every question that was asked, and what came of it."""

import re
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from tests.e2e.cases import Vector
from tests.soak.causes import CANARY, cause_of
from tests.soak.expected import ExpectedVectors
from tests.soak.known import known_item
from tests.soak.samples import Sample
from tests.soak.timeline import Timeline

CHAMPION = "champion"
MOST = 100
"""Faults that are described; all are counted."""


@dataclass(frozen=True)
class Selector:
    """Whose vector is asked for: ``kind`` is ``alias``, ``version`` or ``space``, or empty for
    whoever has the traffic."""

    kind: str = ""
    name: str = ""


@dataclass(eq=False)
class Asked:
    """One input that was sent once, or again and again by a client that resumes."""

    path: str
    sample: Sample
    target: Selector
    asked: float
    outcomes: int = 0


@dataclass
class PathCount:
    """What came of the questions of one path; ``seconds`` are those of right answers."""

    asked: int = 0
    right: int = 0
    failed: int = 0
    seconds: list[float] = field(default_factory=list)


class Ledger:
    """Checks answers as they come; any thread may call it.

    ``faults`` are counted by what they are (wrong, lost, twice, unexpected, unhealed), and the
    first of each kind described.
    """

    def __init__(
        self, expected: ExpectedVectors, spaces: dict[str, str], timeline: Timeline
    ) -> None:
        """``spaces`` has the space of each version at the start, whose name is that of its contents
        from then on: another version may come to have them."""
        self.expected, self.spaces, self.timeline = expected, spaces, timeline
        for name in spaces:
            timeline.begin(contents_of(name), name)
        self.paths: dict[str, PathCount] = {}
        self.errors: Counter[tuple[str, str]] = Counter()
        self.faults: Counter[str] = Counter()
        self.known: Counter[str] = Counter()
        self.described: list[str] = []
        self.events: Counter[str] = Counter()
        self.malformed: Counter[str] = Counter()
        self._open: set[Asked] = set()
        self._told: set[str] = set()
        self._lock = threading.Lock()
        self._started = time.monotonic()

    def ask(self, path: str, sample: Sample, target: Selector) -> Asked:
        """A question, asked now."""
        question = Asked(path, sample, target, time.monotonic())
        with self._lock:
            self.paths.setdefault(path, PathCount()).asked += 1
            self._open.add(question)
        return question

    def answered(
        self, question: Asked, version: str, space: str, vector: Vector, coarse: bool = False
    ) -> None:
        """An answer came."""
        now = time.monotonic()
        problem = self._problem(question, now, version, space, vector, coarse)
        if self._is_first(question) and not problem:
            with self._lock:
                count = self.paths[question.path]
                count.right += 1
                count.seconds.append(now - question.asked)
        if problem:
            self.fault("wrong", f"{_of(question)}: {problem}")

    def failed(self, question: Asked, code: str, message: str) -> None:
        """An error came."""
        cause = cause_of(code, message, question.asked, time.monotonic(), self.timeline)
        if self._is_first(question):
            with self._lock:
                self.paths[question.path].failed += 1
                self.errors[code, cause or "unexpected"] += 1
        if not cause:
            self.fault("unexpected", f"{_of(question)}: {code} {message[:300]}")

    def refused(self, kind: str, codes: tuple[str, ...], code: str, message: str) -> None:
        """A malformed request of a kind, which ``codes`` may answer, was answered by ``code``."""
        now = time.monotonic()
        cause = (
            "malformed" if code in codes else cause_of(code, message, now - 5, now, self.timeline)
        )
        told = f"malformed {kind}: {code} {message[:300]}, not {' or '.join(codes)}"
        with self._lock:
            self.malformed[kind] += 1
            self.errors[code, cause or known_item(told) or "unexpected"] += 1
        if not cause:
            self.fault("unexpected", told)

    def happened(self, event: str) -> None:
        """An event took place."""
        with self._lock:
            self.events[event] += 1

    def fault(self, kind: str, description: str) -> None:
        """Something is not as it should be."""
        told = f"{kind}, {time.monotonic() - self._started:.1f} s: {description}"
        with self._lock:
            item = known_item(description)
            if item:
                self.known[item] += 1
            else:
                self.faults[kind] += 1
            # The same fault again says nothing new.
            if (gist := _gist(kind, description)) in self._told or len(self._told) >= MOST:
                return
            self._told.add(gist)
            if not item:
                self.described.append(told)
        print(f"{'KNOWN' if item else 'FAULT'} {told}", flush=True)

    def close(self) -> None:
        """No more answers come: what has none is lost."""
        for question in list(self._open):
            self.fault("lost", _of(question))

    def _is_first(self, question: Asked) -> bool:
        with self._lock:
            self._open.discard(question)
            question.outcomes += 1
            if question.outcomes == 1:
                return True
        self.fault("twice", _of(question))
        return False

    def _problem(
        self, question: Asked, now: float, version: str, space: str, vector: Vector, coarse: bool
    ) -> str:
        contents = next((name for name, its in self.spaces.items() if its == space), "")
        if contents not in self.timeline.between(contents_of(version), question.asked, now):
            return f"version {version} in space {space}, of {contents or 'nothing'}"
        if question.target.kind == "space":
            if space != question.target.name:
                return f"version {version} in space {space}"
        elif version not in (allowed := self._allowed(question, now)):
            return f"version {version}, where {sorted(allowed)} were asked for"
        return self.expected.problem(contents, question.sample, vector, coarse)

    def _allowed(self, question: Asked, now: float) -> set[str]:
        """The versions that may have answered: an answer is of the moment when it was routed,
        which lies between question and answer."""
        target = question.target
        if target.kind == "version":
            return {target.name}
        named = self.timeline.between(target.name or CHAMPION, question.asked, now)
        if target.kind == "alias":
            return named
        return named | self.timeline.between(CANARY, question.asked, now)


def contents_of(version: str) -> str:
    """The name of the spans of what a version stands for."""
    return f"contents of version {version}"


def _gist(kind: str, description: str) -> str:
    """What a fault has in common with others like it: neither its input nor numbers."""
    return kind + re.sub(r"[0-9a-f]{8,}|\d+", "#", description.partition(": ")[2])[:80]


def _of(question: Asked) -> str:
    target = f"{question.target.kind} {question.target.name}".strip() or "no version named"
    return f"{question.path}, {question.sample.name}, {target}"
