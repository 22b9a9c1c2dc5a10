"""What state each version of a model is in, and the only hand that changes its `ServedModel`."""

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from vlm2vec_registry.snapshot import CHAMPION
from vlm2vec_service.errors import without_paths
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

    def state(self, version: Version) -> VersionState:
        """Says what state a version is in."""
        key = version.key
        if key in self.held or version.is_base:
            return self._among_workers(key)
        if key in self._under_way:
            return VersionState(self._under_way[key])
        if key in self.failures:
            return VersionState(State.FAILED, self.failures[key].reason)
        return VersionState(State.AVAILABLE)

    def _among_workers(self, key: str) -> VersionState:
        ready = [worker for worker in self.workers if worker.ready]
        refusals = {w.name: w.refused[key] for w in ready if key in w.refused}
        if not ready:
            return VersionState(State.LOADING)
        if len(refusals) == len(ready):
            return VersionState(State.FAILED, next(iter(refusals.values())))
        why = "; ".join(f"worker {worker}: {reason}" for worker, reason in refusals.items())
        return VersionState(State.HELD, why)

    def given_up(self, version: Version) -> str:
        """Why no worker will answer with a version that they were to hold, where all of them are
        ready and none could load it again; empty otherwise. It has to be loaded anew."""
        refusals = [worker.refused.get(version.key, "") for worker in self.workers]
        ready = all(worker.ready for worker in self.workers)
        return refusals[0] if refusals and ready and all(refusals) else ""

    @property
    def ready(self) -> bool:
        """Whether there is a champion, and a worker that answers with it."""
        return not self.unready

    @property
    def unready(self) -> str:
        """Why no worker answers with the champion; empty where one does."""
        champion = self._champion
        if champion is None:
            return f"there is no {CHAMPION}"
        found = self.state(champion)
        if found.state is State.FAILED:
            return f"version {champion.name} could not be loaded: {found.reason}"
        if CHAMPION not in self.model.aliases:
            return f"version {champion.name} is being loaded"
        return "" if found.state is State.HELD else "its workers are starting"

    @property
    def _champion(self) -> Version | None:
        """The champion, or the first one, which is to be."""
        return self.model.aliases.get(CHAMPION) or self.model.awaited.get(CHAMPION)

    @property
    def starting(self) -> bool:
        """Whether waiting may help: no worker answers with the champion, and it is not known that
        none will."""
        champion = self._champion
        if champion is None:
            return not self.model.heard
        return self.state(champion).state not in (State.HELD, State.FAILED)

    # What is loaded

    def under_way(self, version: Version, state: State | None) -> None:
        """Notes that a version is being fetched or loaded; None: no longer."""
        if state is None:
            self._under_way.pop(version.key, None)
        else:
            self._under_way[version.key] = state

    def hold(self, version: Version, nbytes: int) -> None:
        """Notes that the workers hold ``version``, whose weights are ``nbytes``."""
        self.held[version.key] = Held(version, nbytes, time.monotonic())
        self.failures.pop(version.key, None)

    def let_go(self, version: Version) -> Held | None:
        """Notes that the workers are to forget a version; what it was, if it was held."""
        return self.held.pop(version.key, None)

    def fail(self, version: Version, reason: str) -> LoadFailure:
        """Notes why a version could not be loaded, and says when it may be tried again."""
        before = self.failures.get(version.key)
        delay = min(2 * before.delay, LAST_RETRY) if before else FIRST_RETRY
        failure = LoadFailure(without_paths(reason), time.monotonic() + delay, delay)
        self.failures[version.key] = failure
        return failure

    @contextlib.contextmanager
    def used(self, version: Version) -> Iterator[None]:
        """Counts a request that a version answers, so that it stays until the block ends."""
        held = self.held.get(version.key)
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
            for key, held in self.held.items()
            if not held.users and key not in self.model.in_traffic
        ]
        return sorted(free, key=lambda held: held.used_at)

    # What the registry says

    def take(self, versions: dict[str, Version], all_there_are: bool = True) -> None:
        """Makes ``versions`` those of the model, and retires the spaces that none of them has.
        They are ``all_there_are`` unless the registry has yet to say so.

        One that answers to an alias goes on, although it is not among them, until the alias points
        elsewhere.
        """
        self.model.retired |= {version.space for version in self.model.versions.values()}
        self.model.retired -= {version.space for version in versions.values()}
        self.model.versions = versions
        self.model.heard |= all_there_are

    def await_registry(self) -> None:
        """Notes that more versions may be known once a registry has answered."""
        self.model.heard = False

    def expect(self, aliases: dict[str, Version]) -> None:
        """Notes which versions are to answer to ``aliases`` once they are loaded."""
        self.model.awaited = aliases

    def left(self) -> list[Version]:
        """The versions that workers hold, and that are neither the model's nor answer any more."""
        known = {version.key for version in self.model.versions.values()}
        known |= {version.key for version in self.model.aliases.values()}
        return [held.version for key, held in self.held.items() if key not in known]

    def point(self, alias: str, version: Version | None) -> None:
        """Points ``alias`` to a version; None removes it."""
        if version is None:
            self.model.aliases.pop(alias, None)
        else:
            self.model.aliases[alias] = version

    def share(self, canary_share: float) -> None:
        """Gives the canary its share, 0 to 1, of the calls that name no version."""
        self.model.canary_share = canary_share
