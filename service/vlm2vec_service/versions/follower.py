"""Follows the registry: what it says of a model becomes what the model's workers hold and answer.

Every few seconds, and whenever poked, a snapshot is taken. Versions that traffic should go to are
loaded first and switched to then; one that cannot be loaded leaves the old one in its place. While
the registry is away everything stays as it is, and it is asked less and less often; a server that
starts then begins with the last snapshot that was saved beside the cache.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import MissingError, RegistryInputError
from vlm2vec_registry.files import write_whole
from vlm2vec_registry.snapshot import CANARY, CHAMPION, PublishedVersion, Snapshot
from vlm2vec_registry.strict import FormatError, shown
from vlm2vec_service.errors import ServeError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.supervision.backoff import LONGEST_PAUSE, Backoff
from vlm2vec_service.tasks import in_daemon_thread
from vlm2vec_service.versions.catalog import BASE_VERSION, TRAFFIC, Version
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.residency import Residency

log = logging.getLogger(__name__)

PATIENCE = 15.0
"""Seconds after which a registry that does not answer is as good as away."""


class Source(Protocol):
    """What knows what the registry says."""

    def snapshot(self, model: str, /) -> Snapshot:
        """All that it says of ``model``. Raises `MissingError` where that is not registered, and
        `RegistryError`."""


class Follower:
    """Keeps one model in step with ``registry``. ``state`` is the file of the last snapshot. The
    registry is asked every ``poll_seconds``; while it is away the pauses grow, to ``longest_pause``
    seconds."""

    def __init__(
        self,
        residency: Residency,
        loader: Loader,
        registry: Callable[[], Source],
        state: Path,
        poll_seconds: float,
        metrics: Metrics,
        longest_pause: float = LONGEST_PAUSE,
    ) -> None:
        self.residency = residency
        self.model = residency.model
        self.loader = loader
        self.state = state
        self.poll_seconds = poll_seconds
        self.metrics = metrics
        self.broken: dict[str, str] = {}
        """Versions of the registry that nothing can be done with, and why."""
        self.on_change: Callable[[], None] = lambda: None
        """Called when an alias points elsewhere."""
        self.on_poke: Callable[[], None] = lambda: None
        """Called for `poke`, where somebody else asks the registry."""
        self._registry = registry
        self._own, self._digest = dict(self.model.versions), self.model.digest.hex()
        residency.await_registry()
        self._poked = asyncio.Event()
        self._backoff = Backoff(poll_seconds, max(poll_seconds, longest_pause))
        self._away_since: float | None = None
        self._saved = ""
        self._trouble = ""
        self._complaints: dict[str, str] = {}
        # For alerts, which see an increase from 0, and a registry that never answered.
        metrics.versions_changed.labels(self.model.name)
        metrics.state_errors.labels(self.model.name)
        metrics.registry_errors.labels(self.model.name)
        metrics.registry_success.labels(self.model.name)
        metrics.registry_away.labels(self.model.name)

    def poke(self) -> None:
        """Looks at the registry now."""
        self.on_poke()
        self._poked.set()

    async def run(self) -> None:
        """Follows until cancelled."""
        while True:
            self._poked.clear()
            pause = self.poll_seconds if await self.step() else self._backoff.after()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._poked.wait()

    async def step(self) -> bool:
        """Takes a snapshot and follows it; an error is logged and counted, and changes nothing.

        Returns whether the registry answered. Raises `RegistryInputError` for a URI that is no
        registry's, at the first look.
        """
        name = self.model.name
        try:
            async with asyncio.timeout(PATIENCE):
                snapshot = await in_daemon_thread(lambda: self._registry().snapshot(name))
        except MissingError:
            snapshot = Snapshot(name, {}, {})
        except RegistryInputError:
            raise  # its URI is at fault, which no waiting mends
        except Exception as error:  # noqa: BLE001 (whatever it answers, what is loaded serves)
            self._is_away(error)
            if not self._saved:
                await self._from_state()
            return False
        self._has_answered()
        try:
            await self.follow(snapshot)
        except Exception:
            log.exception("model %s: following the registry failed", name)
            self.metrics.registry_errors.labels(name).inc()
            return True
        await in_daemon_thread(lambda: self._save(snapshot))
        return True

    def _is_away(self, error: Exception) -> None:
        """Counts a look that failed, and says so where the one before did not."""
        name, now = self.model.name, time.monotonic()
        self.metrics.registry_errors.labels(name).inc()
        if self._away_since is None:
            self._away_since = now
            log.warning(
                "model %s: the registry cannot be asked: %s; what is loaded goes on",
                name, _first_line(error),
            )  # fmt: skip
        self.metrics.registry_away.labels(name).set(now - self._away_since)

    def _has_answered(self) -> None:
        """Notes that the registry is there, and says so where it was away."""
        name = self.model.name
        self.metrics.registry_success.labels(name).set_to_current_time()
        if self._away_since is not None:
            away = time.monotonic() - self._away_since
            log.info("model %s: the registry answers again, after %.0f s", name, away)
        self._away_since = None
        self._backoff.forget()
        self.metrics.registry_away.labels(name).set(0)

    async def follow(self, snapshot: Snapshot, is_current: bool = True) -> None:
        """Makes the model what ``snapshot`` says; one that is not current may lack versions."""
        self._take_versions(snapshot, is_current)
        aliases = snapshot.aliases
        meant = {alias: self._meant(aliases.get(alias)) for alias in TRAFFIC}
        self.residency.expect({alias: version for alias, version in meant.items() if version})
        for alias in sorted({*aliases, *self.model.aliases}):
            if alias not in TRAFFIC:
                self._point(alias, self._meant(aliases.get(alias)))
        # While aliases move, nobody gets more of the canary than both shares allow.
        self.residency.share(min(self.model.canary_share, snapshot.canary_share))
        for alias in TRAFFIC:
            await self._switch(alias, aliases.get(alias))
        self.residency.share(snapshot.canary_share if CANARY in self.model.aliases else 0.0)
        self._show()
        for version in self.residency.left():
            log.info("model %s: version %s left the registry", self.model.name, version.name)
            await self.loader.unload(version)

    def _take_versions(self, snapshot: Snapshot, is_current: bool) -> None:
        versions, before, self.broken = dict(self._own), self.broken, dict(snapshot.broken)
        for name, published in snapshot.versions.items():
            if name in self._own:
                self.broken[name] = "the base model has this name"
                continue
            if reason := self._no_base(published):
                self.broken[name] = reason
                continue
            version = self._version(published)
            known = self.model.versions.get(name)
            if known is not None and known.key != version.key:
                log.warning(
                    "model %s: version %s has other contents now: it is taken for a new one",
                    self.model.name, name,
                )  # fmt: skip
                self.metrics.versions_changed.labels(self.model.name).inc()
            versions[name] = version
        for name, reason in self.broken.items():
            if before.get(name) != reason:
                self.metrics.load_failures.labels(self.model.name).inc()
                log.error("model %s: version %s: %s", self.model.name, name, reason)
        self.residency.take(versions, is_current)

    def _version(self, published: PublishedVersion) -> Version:
        if published.is_base:
            return replace(self._own[BASE_VERSION], name=published.name)
        config = EmbeddingConfig.from_dict(published.embedding)
        return Version(published.name, None, published.space, config, published)

    def _no_base(self, published: PublishedVersion) -> str:
        """Why a version that is a base is not the base served here; empty where it is, and for an
        adapter, of which its files say so."""
        own = self._own[BASE_VERSION].space
        if not published.is_base or (published.base, published.space) == (self._digest, own):
            return ""
        if published.base != self._digest:
            return (
                f"it is another base (digest {published.base[:12]}, served is {self._digest[:12]})"
            )
        return (
            f"the base embeds otherwise here: its space is {own}, not {published.space}; publish "
            "and serve it with the same embedding.json or --preset"
        )

    def _meant(self, target: str | None) -> Version | None:
        """The version of that name; None where there is none."""
        return self.model.versions.get(target) if target else None

    async def _switch(self, alias: str, target: str | None) -> None:
        """Points an alias with traffic to ``target`` once that is loaded."""
        if target is None and alias == CHAMPION and CHAMPION in self.model.aliases:
            self._complain(alias, "there is none in the registry")
            return
        version = self._meant(target)
        if target and version is None:
            reason = self.broken.get(target, "there is no such version")
            self._complain(alias, f"version {target}: {reason}")
            return
        if version is not None:
            try:
                await self.loader.ensure(version, traffic=True)
            except ServeError as error:
                self._complain(alias, str(error))
                return
        self._complaints.pop(alias, None)
        self._point(alias, version)

    def _complain(self, alias: str, reason: str) -> None:
        """Says why an alias does not move, once."""
        if self._complaints.get(alias) != reason:
            log.error("model %s: %s stays as it is: %s", self.model.name, alias, reason)
        self._complaints[alias] = reason

    def _point(self, alias: str, version: Version | None) -> None:
        before = self.model.aliases.get(alias)
        now, then = (item.key or item.name if item else None for item in (version, before))
        if now == then:
            return
        self.residency.point(alias, version)
        log.info("model %s: %s is %s now, it was %s", self.model.name, alias, now, then)
        self.on_change()

    def _show(self) -> None:
        routes = {
            alias: (version.name, version.space)
            for alias, version in self.model.aliases.items()
            if alias in TRAFFIC
        }
        self.metrics.route(self.model.name, routes, self.model.canary_share)

    async def _from_state(self) -> None:
        """Starts with the last snapshot saved; a file that makes no sense is as good as none."""
        try:
            text = self.state.read_text()
            snapshot = Snapshot.from_json(text, str(self.state))
            if snapshot.model != self.model.name:
                raise FormatError(f"{self.state}: it is of model {shown(snapshot.model)}")
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            self._trouble_with_state(f"{error}; waiting for the registry")
            return
        log.warning("model %s: starting with what %s says", self.model.name, self.state)
        self._saved = text
        await self.follow(snapshot, is_current=False)

    def _save(self, snapshot: Snapshot) -> None:
        text = snapshot.to_json()
        if text == self._saved:
            return
        try:
            self.state.parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.state, text)
        except OSError as error:
            self._trouble_with_state(str(error))
            return
        self._saved = text
        self._trouble = ""

    def _trouble_with_state(self, reason: str) -> None:
        """Says what is wrong with the state file, once, and counts it each time."""
        self.metrics.state_errors.labels(self.model.name).inc()
        if reason != self._trouble:
            log.error("model %s: state file %s: %s", self.model.name, self.state, reason)
        self._trouble = reason


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:500]
