"""What happens to the installation while callers call, each event until all is well again."""

import contextlib
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from tests.e2e.server import SERVING, wait_until
from tests.soak.causes import CANARY, DAMAGE, OUTAGE, REPUBLISHED, RESTART
from tests.soak.damage import CACHE_DAMAGE, STATE_DAMAGE
from tests.soak.installation import HEAL_SECONDS, RARE, VERSIONS, Installation
from tests.soak.ledger import CHAMPION, Ledger, contents_of
from tests.soak.samples import MODEL
from tests.soak.timeline import Timeline
from vlm2vec.v1 import adapters_pb2
from vlm2vec_registry import traffic
from vlm2vec_registry.snapshot import SHADOW

CHEAP = ("promotion", "canary", "nightly")
"""Events that come between all others."""


@dataclass
class Director:
    """Makes events happen, one after another, in an order that follows from ``choose``."""

    site: Installation
    ledger: Ledger
    choose: random.Random

    def __post_init__(self) -> None:
        self.timeline: Timeline = self.ledger.timeline
        self._damage = {"cache": list(CACHE_DAMAGE), "state": list(STATE_DAMAGE)}
        for names in self._damage.values():
            self.choose.shuffle(names)
        self._canary = ""

    def run(self, until: float, pause: float) -> None:
        """Rounds of all events in a new order each, until a moment of ``time.monotonic``; the
        first round is finished in any case."""
        first = True
        while time.monotonic() < until:
            events = list(EVENTS)
            self.choose.shuffle(events)
            for event in events:
                for happening in (event, self.choose.choice(CHEAP)):
                    if time.monotonic() > until and not first:
                        return
                    self._happen(happening)
                    time.sleep(pause * self.choose.random())
            first = False

    def _happen(self, event: str) -> None:
        started = time.monotonic()
        try:
            EVENTS[event](self)
            self.site.wait_until_whole()
        except (AssertionError, grpc.RpcError, OSError) as error:
            self.ledger.fault("unhealed", f"{event}: {type(error).__name__}: {str(error)[-800:]}")
            self._repair()
        self.ledger.happened(event)
        print(f"{event} took {time.monotonic() - started:.1f} s", flush=True)

    def _repair(self) -> None:
        """Everything anew, so that one fault is not counted for the rest of the time."""
        with self.timeline.during(RESTART):
            with contextlib.suppress(AssertionError, OSError):
                self.site.stop_mlflow()
                self.site.kill_server()
            shutil.rmtree(self.site.cache, ignore_errors=True)
            self.site.start_mlflow()
            self.site.start_server()
            self.site.wait_until_whole()

    def take(self, kind: str) -> str:
        """The next way of damaging something."""
        name = self._damage[kind].pop(0)
        self._damage[kind].append(name)
        return name

    def promotion(self) -> None:
        """Another version becomes the champion."""
        version = self.choose.choice([v for v in VERSIONS if v != self.site.aliases()[CHAMPION]])
        with self._moving(CHAMPION, version):
            traffic.promote(self.site.registry, MODEL, version)
        if self._canary == version:  # which promoting ended
            self._end_canary()

    def canary(self) -> None:
        """A version gets a share of the traffic, another share, or none any more."""
        version = self.choose.choice(VERSIONS)
        if self._canary and self.choose.random() < 0.3:
            traffic.stop_canary(self.site.registry, MODEL)
            self._end_canary()
            return
        with self._moving(CANARY, version):
            share = self.choose.choice((0.1, 0.5, 0.9))
            traffic.start_canary(self.site.registry, MODEL, version, share)
        self._canary = version

    def _end_canary(self) -> None:
        wait_until(lambda: CANARY not in self.site.aliases(), HEAL_SECONDS)
        self.timeline.settle(CANARY)
        self._canary = ""

    def nightly(self) -> None:
        """An alias without traffic of its own moves."""
        version = self.choose.choice(VERSIONS)
        with self._moving("nightly", version):
            self.site.registry.set_alias(MODEL, "nightly", version)

    def shadow(self) -> None:
        """A version begins to compute beside the champion, compared and for nobody, or ends."""
        if SHADOW in self.site.aliases():
            self.site.registry.delete_alias(MODEL, SHADOW)
            wait_until(lambda: SHADOW not in self.site.aliases(), HEAL_SECONDS)
            return
        server = self.site.server
        before = server.metric("shadow_cosine_count")
        champion = self.site.aliases()[CHAMPION]
        version = self.choose.choice([v for v in VERSIONS if v != champion])
        self.site.registry.set_alias(MODEL, SHADOW, version)
        wait_until(lambda: self.site.aliases().get(SHADOW) == version, HEAL_SECONDS)
        wait_until(lambda: server.metric("shadow_cosine_count") > before, HEAL_SECONDS)

    def publish_anew(self) -> None:
        """The model is deleted and published anew: its versions' names stand for other contents."""
        names = (*VERSIONS, RARE)
        contents = self.choose.sample(names, len(names))
        champion, nightly = (self.choose.choice(VERSIONS) for _ in range(2))
        spaces = {name: self.site.spaces[held] for name, held in zip(names, contents, strict=True)}

        def is_followed() -> bool:
            aliases, listed = self.site.aliases(), self.site.listed_spaces()
            return aliases == {CHAMPION: champion, "nightly": nightly} and listed == spaces | {
                "base": self.site.spaces["base"]
            }

        with self.timeline.during(REPUBLISHED):
            for name, held in zip(names, contents, strict=True):
                self.timeline.begin(contents_of(name), held)
            self.timeline.begin(CHAMPION, champion)
            self.timeline.begin("nightly", nightly)
            self.site.publish_anew(contents, champion, nightly)
            wait_until(is_followed, HEAL_SECONDS)
            for name, held in zip(names, contents, strict=True):
                self.timeline.settle(contents_of(name), held)
            self.timeline.settle(CHAMPION, champion)
            self.timeline.settle("nightly", nightly)
            self.timeline.settle(CANARY)
            self._canary = ""

    @contextlib.contextmanager
    def _moving(self, alias: str, version: str) -> Iterator[None]:
        """Either version is right from before the block until the server says the new one."""
        self.timeline.begin(alias, version)
        yield
        wait_until(lambda: self.site.aliases().get(alias) == version, HEAL_SECONDS)
        self.timeline.settle(alias, version)

    def worker_kill(self) -> None:
        """The worker dies."""
        before = self.site.server.workers
        self.site.signal_worker(signal.SIGKILL)
        wait_until(lambda: set(self.site.server.workers) - set(before), HEAL_SECONDS)
        self.site.server.wait_for(SERVING, HEAL_SECONDS)

    def worker_stop(self) -> None:
        """The worker stands still for a moment."""
        self.site.signal_worker(signal.SIGSTOP)
        time.sleep(0.5 + 2 * self.choose.random())
        self.site.signal_worker(signal.SIGCONT)

    def unload(self) -> None:
        """An operator takes out a version, which comes back for who asks for it."""
        request = adapters_pb2.UnloadAdapterRequest(
            model=MODEL, version=self.choose.choice(VERSIONS)
        )
        with contextlib.suppress(grpc.RpcError):  # not one that has traffic
            self.site.server.adapters.UnloadAdapter(request, timeout=60)

    def restart(self) -> None:
        """The server drains, ends, and is started again."""
        with self.timeline.during(RESTART):
            self.site.stop_server()
            self.site.start_server()

    def worker_elsewhere(self) -> None:
        """The server moves to a worker on another host, which dies and comes back, and moves back
        to its own."""
        with self.site.worker_elsewhere() as start_again:
            self.restart()
            self.site.wait_until_whole()
            start_again()
            self.site.wait_until_whole()
        self.restart()

    def server_kill(self) -> None:
        """The front end dies, and is started again."""
        with self.timeline.during(RESTART):
            self.site.kill_server()
            self.site.start_server()

    def outage(self) -> None:
        """MLflow is away, and something else happens meanwhile."""
        with self.timeline.during(OUTAGE):
            self.site.stop_mlflow()
            meanwhile = self.choose.choice(("worker_kill", "restart", "unload", "worker_stop"))
            try:
                EVENTS[meanwhile](self)
                champion = self.site.aliases()[CHAMPION]
                self.site.wait_until_whole((champion,))
            finally:
                self.site.start_mlflow()

    def cache_damage(self) -> None:
        """Files of the cache are damaged, and then needed."""
        with self.timeline.during(DAMAGE):
            name = self.take("cache")
            print(f"cache: {name}", flush=True)
            CACHE_DAMAGE[name](self.site.cache, self.choose)
            needed = self.choose.choice(("worker_kill", "unload", "restart"))
            EVENTS[needed](self)
            if needed == "unload":
                # Of one version; damage to another would wait until MLflow is away as well.
                self.restart()
            self.site.wait_until_whole()

    def state_damage(self) -> None:
        """The state file is damaged, and all there is for a server that starts without MLflow."""
        with self.timeline.during(RESTART):
            self.site.stop_server()
            self.site.stop_mlflow()
            (state,) = self.site.cache.glob("registry-*.json")
            name = self.take("state")
            print(f"state: {name}", flush=True)
            before = state.read_text()
            _replace(state, STATE_DAMAGE[name](before))
            back = threading.Thread(target=self._mlflow_later)
            back.start()
            try:
                self.site.start_server()
            finally:
                back.join()
        self.site.wait_until_whole()

    def _mlflow_later(self) -> None:
        """Starts MLflow once the server has had to do without it."""
        time.sleep(8)
        self.site.start_mlflow()


def _replace(path: Path, content: bytes | None) -> None:
    """Puts ``content`` into the file; None puts a folder in its place."""
    path.unlink()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)


EVENTS: dict[str, Callable[[Director], None]] = {
    event.__name__: event
    for event in (
        Director.promotion, Director.canary, Director.nightly, Director.worker_kill,
        Director.worker_stop, Director.unload, Director.restart, Director.server_kill,
        Director.outage, Director.cache_damage, Director.state_damage, Director.shadow,
        Director.publish_anew, Director.worker_elsewhere,
    )
}  # fmt: skip
"""What can happen, by name."""
