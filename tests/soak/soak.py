"""One run: an installation, all callers, all events, and what came of it."""

import random
import re
import time
from collections.abc import Iterator
from pathlib import Path

from tests.e2e.server import wait_until
from tests.soak import causes, malformed
from tests.soak.callers import Load, Step, calling
from tests.soak.events import Director
from tests.soak.expected import ExpectedVectors
from tests.soak.hostile import HOSTILE
from tests.soak.installation import RARE, VERSIONS, Installation
from tests.soak.ledger import CHAMPION, Ledger
from tests.soak.probe import probing
from tests.soak.report import Report
from tests.soak.residents import Residents, watching
from tests.soak.samples import samples
from tests.soak.timeline import Timeline

PAUSE = 1.0
"""Seconds between events at most."""
UNHANDLED = re.compile(
    r"Traceback.*?$.*?^[ |]*([\w.]+(?:Error|Exception)\b[^\n]*)$", re.MULTILINE | re.DOTALL
)
"""The error that a traceback in a log is about: one that nobody handled."""


def soak(folder: Path, minutes: float, seed: int) -> Report:
    """Runs in ``folder``, which is empty, and reports; ``seed`` decides what is asked and what
    happens in which order."""
    site = Installation(folder)
    try:
        return _soak(site, minutes, seed)
    finally:
        site.close()


def _soak(site: Installation, minutes: float, seed: int) -> Report:
    inputs = samples(seed)
    folders = {"base": None, **site.adapters}
    expected = ExpectedVectors(site.folder, site.base, folders, inputs)
    timeline = Timeline()
    timeline.begin(CHAMPION, "1")
    timeline.begin("nightly", "2")
    ledger = Ledger(expected, site.spaces, timeline)
    load = Load(site, ledger, inputs, seed)
    director = Director(site, ledger, random.Random(f"{seed} events"))
    site.wait_until_whole()
    residents = Residents(site)
    print(f"started: {len(inputs)} inputs in {len(site.spaces)} versions", flush=True)
    with probing(site.server.http_address, site.folder) as probe:
        more = (_sends_malformed(seed), _is_hostile(seed))
        with calling(load, *more), watching(residents):
            director.run(time.monotonic() + 60 * minutes, PAUSE)
        stops = probe.stop()
    _check_end(load)
    residents.look()
    return Report(minutes, seed, ledger, residents, stops)


def _sends_malformed(seed: int) -> Step:
    """A caller who sends all kinds of malformed requests in turn."""
    kinds = malformed.in_turn(random.Random(f"{seed} malformed"))

    def sends_malformed(load: Load, choose: random.Random) -> None:
        kind = next(kinds)
        code, message = malformed.send(kind, load)
        load.ledger.refused(kind.name, kind.codes, code, message)

    return sends_malformed


def _is_hostile(seed: int) -> Step:
    """A caller who does one hostile thing after the other."""

    def acts() -> Iterator[str]:
        choose = random.Random(f"{seed} hostile")
        while True:
            yield from choose.sample(list(HOSTILE), len(HOSTILE))

    names = acts()

    def is_hostile(load: Load, choose: random.Random) -> None:
        name = next(names)
        try:
            HOSTILE[name](load.site.server, load.samples, choose)
        except (BrokenPipeError, ConnectionResetError):
            pass  # the server hung up, as it may
        except OSError as error:
            now = time.monotonic()
            if not load.ledger.timeline.between(causes.RESTART, now - 10, now):
                load.ledger.fault("unexpected", f"hostile {name}: {error!r}")
        load.ledger.happened(f"hostile: {name}")
        load.stopping.wait(choose.random())

    return is_hostile


def _check_end(load: Load) -> None:
    """When nobody calls any more: nothing is under way, every version answers every input, and the
    logs tell of no error that nobody handled."""
    site, ledger = load.site, load.ledger
    ledger.close()
    for name in ("requests_in_flight", "pending_requests", "queue_requests", "queue_tokens"):
        try:
            wait_until(lambda name=name: site.server.metric(name) == 0)  # type: ignore[misc]
        except AssertionError:
            ledger.fault("left behind", f"{name} is {site.server.metric(name)}")
    try:
        site.wait_until_whole((*VERSIONS, RARE))
    except AssertionError as error:
        ledger.fault("unhealed", f"in the end: {error}")
    for log in site.logs:
        for found in sorted(set(UNHANDLED.findall(log.read_text(errors="replace")))):
            ledger.fault("left behind", f"{log}: {found[:300]}")
