"""A worker's handle beside a link that does what a test tells it to."""

import asyncio
import dataclasses
from pathlib import Path
from typing import Any, cast

import click
import numpy as np
import pytest
from click.testing import CliRunner
from prometheus_client import CollectorRegistry

from vlm2vec_service.errors import AdapterError, DeadlineError, StartError, WorkerLostError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.options import options, take
from vlm2vec_service.preprocess import Prepared
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.supervision import process
from vlm2vec_service.supervision.child import flags
from vlm2vec_service.supervision.link import Link, WorkerStatus
from vlm2vec_service.supervision.process import DEATHS, SHARED_DEATHS, Worker
from vlm2vec_service.versions.wanted import WantedAdapter
from vlm2vec_service.worker.codec import ARITHMETIC

BASE = b"base"
PROBE = BatchInput(Prepared(np.ones(1, np.int32), np.zeros((3, 1), np.int32)), "", True)


class ScriptedLink:
    """Loads what it is told to, after ``before_load``; ``errors`` are raised for adapters by
    name."""

    def __init__(self, digest: bytes = BASE, arithmetic: int = ARITHMETIC) -> None:
        self.answer = WorkerStatus(4, 1, "cpu", frozenset(), digest, "float32", arithmetic)
        self.held: list[str] = []
        self.errors: dict[str, Exception] = {}
        self.before_load: dict[str, Any] = {}

    async def status(self, timeout: float | None = None) -> WorkerStatus:
        return self.answer

    async def load_adapter(self, name: str, folder: Path, with_files: bool, timeout: float) -> None:
        if name in self.before_load:
            await self.before_load[name]()
        if name in self.errors:
            raise self.errors[name]
        self.held.append(name)

    async def unload_adapter(self, name: str) -> None:
        if name in self.held:
            self.held.remove(name)

    async def run(self, inputs: Any, interactive: bool, timeout: float) -> BatchResult:
        return BatchResult(np.ones((len(inputs), 1), np.float32), 0.0)


def worker(address: str | None = None) -> Worker:
    return Worker(
        "w", "m", Path("base"), BASE, EngineSettings(), Metrics(CollectorRegistry()), 300.0, address
    )


def wanted() -> WantedAdapter:
    async def find() -> Path:
        return Path("folder")

    return WantedAdapter(find, PROBE)


async def greet(one: Worker, link: ScriptedLink) -> None:
    await one._greet(cast(Link, link))


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        (ScriptedLink(b"other"), "runs another base"),
        (ScriptedLink(arithmetic=ARITHMETIC + 1), "run one release on both"),
    ],
)
def test_a_worker_whose_vectors_are_of_another_space_is_refused(
    link: ScriptedLink, problem: str
) -> None:
    one = worker()
    with pytest.raises(StartError, match=problem):
        asyncio.run(greet(one, link))
    assert not one.ready


def test_a_worker_of_an_older_release_that_does_not_say_is_taken() -> None:
    one = worker()
    asyncio.run(greet(one, ScriptedLink(b"", 0)))
    assert one.ready


@pytest.mark.parametrize("error", [DeadlineError("slow"), WorkerLostError("connection refused")])
def test_a_worker_elsewhere_that_does_not_answer_is_said_until_it_does(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    monkeypatch.setattr(process, "SILENCE_SECONDS", 1e-9)
    monkeypatch.setattr(process, "REACH_PAUSE", 0.0)
    metrics, seen = Metrics(CollectorRegistry()), []

    class Silent(ScriptedLink):
        async def status(self, timeout: float | None = None) -> WorkerStatus:
            seen.append(metrics.silence.labels("m", "w")._value.get())
            if len(seen) < 5:
                raise error
            return self.answer

    one = Worker("w", "m", Path("base"), BASE, EngineSettings(), metrics, 300.0, "host:1")
    asyncio.run(greet(one, Silent()))
    assert one.ready
    assert seen == sorted(seen)
    assert seen[-1] > 0
    assert metrics.silence.labels("m", "w")._value.get() == 0
    lines = [line for line in caplog.messages if "does not answer" in line]
    assert lines[0].startswith("worker w does not answer for 0 s: ")
    assert lines[0].endswith(str(error))
    # Ever more rarely: each time after twice as long.
    assert 1 <= len(lines) < 5


def test_what_is_wanted_while_it_greets_is_loaded_too() -> None:
    async def check() -> None:
        one, link = worker(), ScriptedLink()
        await one.load_adapter("first", wanted())

        async def meanwhile() -> None:
            await one.load_adapter("second", wanted())

        link.before_load["first"] = meanwhile
        await greet(one, link)
        assert one.ready
        assert link.held == ["first", "second"]

    asyncio.run(check())


def test_what_was_refused_before_is_tried_again_only_when_the_worker_is_ready() -> None:
    async def check() -> None:
        one, link = worker(), ScriptedLink()
        for name in ("bad", "good"):
            await one.load_adapter(name, wanted())
        link.errors["bad"] = AdapterError("no")
        await greet(one, link)
        assert (link.held, one.refused) == (["good"], {"bad": "no"})
        order: list[tuple[str, bool]] = []

        async def note_bad() -> None:
            order.append(("bad", one.ready))

        async def note_good() -> None:
            order.append(("good", one.ready))

        one.ready = False
        again = ScriptedLink()
        again.before_load = {"bad": note_bad, "good": note_good}
        await greet(one, again)
        assert order == [("good", False), ("bad", True)]
        assert (again.held, one.refused) == (["good", "bad"], {})

    asyncio.run(check())


@pytest.mark.parametrize(
    ("error", "address", "deaths"),
    [
        (DeadlineError("slow"), None, 1),
        (WorkerLostError("gone"), None, DEATHS),
        # What took it down may have been an input of another process: that dies thrice at most.
        (WorkerLostError("gone"), "unix:/shared", SHARED_DEATHS),
    ],
)
def test_what_takes_the_worker_down_is_not_loaded_for_ever(
    error: Exception, address: str | None, deaths: int
) -> None:
    async def check() -> None:
        one = worker(address)
        for name in ("poison", "good"):
            await one.load_adapter(name, wanted())
        for _ in range(deaths):
            link = ScriptedLink()
            link.errors["poison"] = error
            with pytest.raises(WorkerLostError, match="adapter poison"):
                await greet(one, link)
        last = ScriptedLink()
        last.errors["poison"] = error
        await greet(one, last)
        assert one.ready
        assert last.held == ["good"]
        assert list(one.refused) == ["poison"]
        # Who asks for it anew has it tried anew.
        del last.errors["poison"]
        await one.load_adapter("poison", wanted())
        assert (last.held, one.refused) == (["good", "poison"], {})

    asyncio.run(check())


def test_what_is_given_up_while_it_is_loaded_leaves_nothing_behind() -> None:
    async def check() -> None:
        one, link = worker(), ScriptedLink()
        await greet(one, link)

        async def give_up() -> None:
            await one.unload_adapter("gone")

        link.before_load["gone"] = give_up
        link.errors["gone"] = AdapterError("no")
        with pytest.raises(AdapterError):
            await one.load_adapter("gone", wanted())
        await greet(one, ScriptedLink())
        assert one.ready

    asyncio.run(check())


@pytest.mark.parametrize("flipped", [False, True])
def test_worker_gets_the_settings_of_its_front_end(flipped: bool) -> None:
    given = EngineSettings(device="cuda:1", token_budget=7, merged_bytes=-1)
    switches: dict[str, Any] = {
        item.name: not getattr(given, item.name)
        for item in dataclasses.fields(given)
        if flipped and isinstance(item.default, bool)
    }
    given = dataclasses.replace(given, **switches)
    read: list[EngineSettings] = []

    @click.command()
    @options(EngineSettings)
    def command(**values: Any) -> None:
        read.append(take(EngineSettings, values))

    result = CliRunner().invoke(command, flags(given), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert read == [given]
