"""The owner: starts workers and members, watches them, and asks the registry for all."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from vlm2vec_service.errors import StartError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.processes.exposition import answer_metrics
from vlm2vec_service.processes.member import OWNER, Member
from vlm2vec_service.processes.snapshots import LOOK_SECONDS, poke_path, stamp, write_answer
from vlm2vec_service.supervision.backoff import LONGEST_PAUSE, Backoff
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.tasks import in_daemon_thread, supervised
from vlm2vec_service.worker.parent import PARENT

if TYPE_CHECKING:
    from vlm2vec_registry.store import Registry

log = logging.getLogger(__name__)

MORE_SECONDS = 20.0
"""What a member is given beside the time to drain before it is killed."""
WRONG = 2
"""The status of a process whose settings are wrong: it would end so each time."""


@dataclass
class Owner:
    """What all members share, in ``folder``. ``command`` starts a member, ``count`` of them;
    ``registry`` is asked for ``models`` every ``poll_seconds``, unless there is none."""

    folder: Path
    command: Sequence[str]
    count: int
    workers: Sequence[Worker]
    models: Sequence[str]
    registry: "Callable[[], Registry] | None"
    poll_seconds: float
    drain_seconds: float
    metrics: Metrics
    _up: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the first member listens: what is wrong with the settings is said once."""

    async def run(self) -> None:
        """Runs until SIGTERM or SIGINT, and ends when all members have drained.

        Raises `StartError` where a member finds that it is called wrongly.
        """
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        answer_metrics(self.folder, OWNER)
        tasks = [supervised("worker", worker.keep_running, self.metrics) for worker in self.workers]
        if self.registry is not None:
            ask = [functools.partial(self._follow, self.registry, name) for name in self.models]
            tasks += [supervised("registry", one, self.metrics) for one in ask]
        members = [asyncio.create_task(self._keep(number, stop)) for number in range(self.count)]
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([stopping, *members], return_when=asyncio.FIRST_COMPLETED)
        stop.set()
        await asyncio.wait(members)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for member in members:
            member.result()

    async def _keep(self, number: int, stop: asyncio.Event) -> None:
        """Keeps member ``number`` running until ``stop``, and lets it drain then."""
        if number:
            await _first(stop.wait(), self._up.wait())
        backoff = Backoff()
        while not stop.is_set():
            started = asyncio.get_running_loop().time()
            status = await self._live(number, stop)
            if stop.is_set():
                return
            if status == WRONG and not self._up.is_set():
                raise StartError("the first front-end process could not start: see above")
            pause = backoff.after(asyncio.get_running_loop().time() - started)
            log.error(
                "front-end process %d ended with status %d, again in %.1f s", number, status, pause
            )
            self.metrics.member_restarts.inc()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def _live(self, number: int, stop: asyncio.Event) -> int:
        """One life of a member. Returns its status."""
        member = Member(self.folder, number, self.count)
        member.socket_of(number).unlink(missing_ok=True)
        process = await asyncio.create_subprocess_exec(
            *self.command,
            env={**os.environ, **member.environment, PARENT: str(os.getpid())},
            # Ctrl-C is for the owner.
            start_new_session=True,
        )
        ended = asyncio.create_task(process.wait())
        if not number:
            watching = asyncio.create_task(self._see(member.socket_of(number)))
        await _first(ended, stop.wait())
        if not number:
            watching.cancel()
        if not ended.done():
            process.terminate()
            done, _ = await asyncio.wait({ended}, timeout=self.drain_seconds + MORE_SECONDS)
            if not done:
                process.kill()
        return await ended

    async def _see(self, path: Path) -> None:
        """Notes that the first member listens, which makes ``path``."""
        while not path.exists():
            await asyncio.sleep(LOOK_SECONDS)
        self._up.set()

    async def _follow(self, registry: "Callable[[], Registry]", model: str) -> None:
        """Asks the registry for the members, every few seconds and whenever one pokes; less often
        while it is away."""
        backoff = Backoff(self.poll_seconds, max(self.poll_seconds, LONGEST_PAUSE))
        while True:
            poked = stamp(poke_path(self.folder))
            pause = self.poll_seconds
            if await in_daemon_thread(
                lambda: write_answer(self.folder, model, lambda: registry().snapshot(model))
            ):
                backoff.forget()
            else:
                pause = backoff.after()
            until = asyncio.get_running_loop().time() + pause
            while asyncio.get_running_loop().time() < until:
                if stamp(poke_path(self.folder)) != poked:
                    break
                await asyncio.sleep(LOOK_SECONDS)


async def _first(*waiting: Awaitable[object]) -> None:
    """Waits for the first of several, and leaves the others."""
    tasks = [asyncio.ensure_future(one) for one in waiting]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, one in zip(tasks, waiting, strict=True):
        if task is not one:
            task.cancel()
