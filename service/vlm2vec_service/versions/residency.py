"""What state each version of a model is in, and the only hand that changes its `ServedModel`."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vlm2vec_registry.snapshot import CHAMPION
from vlm2vec_service.versions.catalog import ServedModel, Version

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds before a version that could not be loaded is tried again; doubled each time."""


class State(Enum):
    """Where a version is between the registry and the workers."""

    AVAILABLE = "available"
    """Nothing was done for it yet: a request that names it has it loaded."""
    FETCHING = "fetching"
    """Its files are on their way to this host."""
    LOADING = "loading"
    """A worker loads it, or the workers that are to have it are starting."""
    HELD = "held"
    """A worker that is ready answers with it."""
    FAILED = "failed"
    """It could not be loaded, and no worker answers with it."""


@dataclass(frozen=True)
class VersionState:
    """A version's state. ``reason`` says why a version has failed; for one that is held, which
    worker could not load it and why, if one could not."""

    state: State
    reason: str = ""


class AnsweringWorker(Protocol):
    """A worker, as far as it matters for what can be answered."""

    name: str

    @property
    def ready(self) -> bool:
        """Whether it can take batches now."""

    @property
    def refused(self) -> Mapping[str, str]:
        """The adapters that it could not load, each with the reason."""


@dataclass
class Held:
    """A version that the workers are told to hold. ``users`` are the requests that it answers now;
    ``used_at`` is in the time of ``time.monotonic``."""

    version: Version
    nbytes: int
    used_at: float
    users: int = 0


@dataclass(frozen=True)
class LoadFailure:
    """Why a version could not be loaded, and until when, in the time of ``time.monotonic``, it is
    not tried again; ``delay`` is how long that was, in seconds."""

    reason: str
    until: float
    delay: float


class Residency:
    """The versions of one model and their states. Single-threaded: the event loop's.

    Admission, readiness, `AdapterService` and the loader all ask here, so that they agree.
    """

    def __init__(self, model: ServedModel, workers: Sequence[AnsweringWorker]) -> None:
        self.model = model
        self.workers = workers
        self.held: dict[str, Held] = {}
        self.failures: dict[str, LoadFailure] = {}
        self._under_way: dict[str, State] = {}

    def state(self, name: str) -> VersionState:
        """Says what state the version called ``name`` is in."""
        if name in self.held or self.model.versions[name].is_base:
            return self._among_workers(name)
        if name in self._under_way:
            return VersionState(self._under_way[name])
        if name in self.failures:
            return VersionState(State.FAILED, self.failures[name].reason)
        return VersionState(State.AVAILABLE)

    def _among_workers(self, name: str) -> VersionState:
        ready = [worker for worker in self.workers if worker.ready]
        refusals = {w.name: w.refused[name] for w in ready if name in w.refused}
        if not ready:
            return VersionState(State.LOADING)
        if len(refusals) == len(ready):
            return VersionState(State.FAILED, next(iter(refusals.values())))
        why = "; ".join(f"worker {worker}: {reason}" for worker, reason in refusals.items())
        return VersionState(State.HELD, why)

    @property
    def ready(self) -> bool:
        """Whether there is a champion, and a worker that answers with it."""
        champion = self.model.aliases.get(CHAMPION)
        return champion in self.model.versions and self.state(champion).state is State.HELD

    # What is loaded

    def under_way(self, name: str, state: State | None) -> None:
        """Notes that a version is being fetched or loaded; None: no longer."""
        if state is None:
            self._under_way.pop(name, None)
        else:
            self._under_way[name] = state

    def hold(self, version: Version, nbytes: int) -> None:
        """Notes that the workers hold ``version``, whose weights are ``nbytes``."""
        self.held[version.name] = Held(version, nbytes, time.monotonic())
        self.failures.pop(version.name, None)

    def let_go(self, name: str) -> Held | None:
        """Notes that the workers are to forget a version; what it was, if it was held."""
        return self.held.pop(name, None)

    def fail(self, name: str, reason: str) -> LoadFailure:
        """Notes why a version could not be loaded, and says when it may be tried again."""
        before = self.failures.get(name)
        delay = min(2 * before.delay, LAST_RETRY) if before else FIRST_RETRY
        self.failures[name] = LoadFailure(reason, time.monotonic() + delay, delay)
        return self.failures[name]

    @contextlib.contextmanager
    def used(self, name: str) -> Iterator[None]:
        """Counts a request that a version answers, so that it stays until the block ends."""
        held = self.held.get(name)
        if held is None:  # the base model
            yield
            return
        held.users += 1
        try:
            yield
        finally:
            held.users -= 1
            held.used_at = time.monotonic()

    def idle(self) -> list[Held]:
        """The versions that could be let go now, the least lately used first."""
        free = [
            held
            for name, held in self.held.items()
            if not held.users and name not in self.model.in_traffic
        ]
        return sorted(free, key=lambda held: held.used_at)

    # What the registry says

    def take(self, versions: dict[str, Version]) -> None:
        """Makes ``versions`` those of the model, and retires the spaces that none of them has.

        One that answers stays although it is not among them, until an alias points elsewhere.
        """
        known = self.model.versions
        self.model.retired |= {version.space for version in known.values()}
        self.model.retired -= {version.space for version in versions.values()}
        stay = {name: known[name] for name in self.model.in_traffic if name not in versions}
        self.model.versions = {**versions, **stay}

    def point(self, alias: str, version: str | None) -> None:
        """Points ``alias`` to the version of that name; None removes it."""
        if version is None:
            self.model.aliases.pop(alias, None)
        else:
            self.model.aliases[alias] = version

    def share(self, canary_share: float) -> None:
        """Gives the canary its share, 0 to 1, of the calls that name no version."""
        self.model.canary_share = canary_share
