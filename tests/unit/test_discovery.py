"""Workers found by name: those that come are fed, those that went are forgotten."""

import asyncio
import socket
from typing import Any, cast

import pytest
from prometheus_client import CollectorRegistry

from tests.unit.queueing import work
from tests.unit.scripted_worker import ScriptedWorker
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.supervision.discovery import Discovery, lookup
from vlm2vec_service.supervision.process import Worker

pytestmark = pytest.mark.usefixtures("still_clock")


class Named(ScriptedWorker):
    """A worker that has an address."""

    def __init__(self, address: str) -> None:
        super().__init__(name=address)
        self.address = address


class Site:
    """What the DNS says, a scheduler, and the workers that were found."""

    def __init__(self) -> None:
        self.dns: set[str] | OSError = set()
        self.metrics = Metrics(CollectorRegistry())
        self.scheduler = Scheduler("m", 100, 1000, self.metrics)
        self.workers: list[Worker] = []
        make = cast(Any, Named)
        self.discovery = Discovery(["w:1"], self.workers, make, self._addresses)

    async def _addresses(self, name: str) -> set[str]:
        if isinstance(self.dns, OSError):
            raise self.dns
        return self.dns

    async def look(self) -> list[str | None]:
        """Asks once; the addresses of the workers then."""

        def went(worker: Worker) -> None:
            self.scheduler.remove_worker(worker)
            self.metrics.forget_worker("m", worker.name)

        await self.discovery.look(lambda worker: self.scheduler.add_worker(worker).wake.set(), went)
        return [worker.address for worker in self.workers]


def test_workers_come_and_go_and_what_waits_is_answered() -> None:
    async def scene() -> None:
        site = Site()
        assert await site.look() == []
        waiting = asyncio.create_task(site.scheduler.run(work(7)))
        await asyncio.sleep(0)
        site.dns = {"a:1", "b:1"}
        assert await site.look() == ["a:1", "b:1"]
        assert (await waiting).vector == [7.0]
        site.dns = {"b:1"}
        assert await site.look() == ["a:1", "b:1"]  # it still answers
        cast(Any, site.workers[0]).ready = False
        assert await site.look() == ["b:1"]
        site.dns = {"b:1", "c:1"}
        assert await site.look() == ["b:1", "c:1"]
        answers = await asyncio.gather(*(site.scheduler.run(work(i)) for i in range(20)))
        assert [answer.vector for answer in answers] == [[float(i)] for i in range(20)]
        site.scheduler.close()

    asyncio.run(scene())


def test_nothing_changes_while_the_dns_is_away(caplog: pytest.LogCaptureFixture) -> None:
    async def scene() -> None:
        site = Site()
        site.dns = {"a:1"}
        await site.look()
        cast(Any, site.workers[0]).ready = False
        site.dns = OSError("no DNS")
        for _ in range(3):
            assert await site.look() == ["a:1"]
        site.scheduler.close()

    asyncio.run(scene())
    assert caplog.text.count("no DNS") == 1


def test_names_are_looked_up(monkeypatch: pytest.MonkeyPatch) -> None:
    assert lookup("127.0.0.1:50052") == {"127.0.0.1:50052"}
    assert lookup("::1:50052") == {"[::1]:50052"}
    for errno, empty in ((socket.EAI_NONAME, True), (socket.EAI_AGAIN, False)):

        def fail(*_: Any, errno: int = errno, **__: Any) -> None:
            raise socket.gaierror(errno, "no")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        if empty:
            assert lookup("a.example:1") == set()
        else:
            with pytest.raises(OSError, match="no"):
                lookup("a.example:1")
