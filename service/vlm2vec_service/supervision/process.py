"""A worker as the front end sees it: started, watched and restarted, or reached over TCP."""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path

from vlm2vec_service.errors import DeadlineError, NotFoundError, ServeError, WorkerLostError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.supervision.link import Link, open_link

log = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 30.0
"""Seconds before a restart; doubled each time, forgotten after a batch or a minute of health."""
HEALTHY_AFTER = 60.0
STOP_SECONDS = 15.0
"""What a worker is given to stop by itself."""
POLL = 2.0
"""Seconds between looks at a worker on another host."""


class Worker:
    """One worker: keeps it alive and tells it which adapters to hold.

    ``address`` is that of a worker on another host, or None for a process of its own. ``wanted``
    are the folders of the adapters that it should hold, by name; ``refused`` are the adapters that
    it could not load or must not answer with, and why. ``on_change`` is called whenever the worker
    gets ready or stops being it.
    """

    def __init__(
        self,
        name: str,
        model: str,
        base: Path,
        settings: EngineSettings,
        metrics: Metrics,
        batch_timeout: float,
        address: str | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.base = base
        self.settings = settings
        self.metrics = metrics
        self.batch_timeout = batch_timeout
        self.address = address
        self.token_budget = 0
        self.dimension = 0
        self.device = ""
        self.ready = False
        self.wanted: dict[str, Path] = {}
        self.refused: dict[str, str] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._link: Link | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._backoff = FIRST_BACKOFF

    async def keep_running(self) -> None:
        """Runs until cancelled; then the process is stopped."""
        self.metrics.worker_up(self.model, self.name, False)
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await (self._live() if self.address is None else self._watch(self.address))
            except (OSError, ServeError) as error:
                log.error("worker %s: %s", self.name, error)
            finally:
                self._set_ready(False)
            if asyncio.get_running_loop().time() - started > HEALTHY_AFTER:
                self._backoff = FIRST_BACKOFF
            log.warning("worker %s is down, again in %.1f s", self.name, self._backoff)
            await asyncio.sleep(self._backoff)
            self._backoff = min(2 * self._backoff, LAST_BACKOFF)
            self.metrics.restarts.labels(self.model, self.name).inc()

    async def run(self, inputs: Sequence[BatchInput], interactive: bool) -> BatchResult:
        """Runs a batch; see `BatchWorker.run`. A worker that does not answer in time is killed."""
        assert self._link is not None
        try:
            result = await self._link.run(inputs, interactive, self.batch_timeout)
        except DeadlineError as error:
            self._lost(0.0)
            log.error("worker %s hangs: killed", self.name)
            raise WorkerLostError("killed: it hung") from error
        except WorkerLostError:
            self._lost(STOP_SECONDS)
            raise
        self._backoff = FIRST_BACKOFF
        return result

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Loads an adapter now if the worker is ready, and after every restart. Raises
        `AdapterError`, and others of `ServeError`, if the worker refuses it now."""
        self.wanted[name] = folder
        self.refused.pop(name, None)
        try:
            # A worker that is gone loads it when it is back.
            with contextlib.suppress(WorkerLostError):
                if self._link is not None and self.ready:
                    await self._link.load_adapter(name, folder, self.address is not None)
        except ServeError as error:
            self.refused[name] = str(error)
            raise
        finally:
            self._count_adapters()

    async def refuse_adapter(self, name: str, reason: str) -> None:
        """Takes out an adapter that was loaded and turned out to be of no use here; it stays
        refused until it is loaded anew."""
        self.wanted.pop(name, None)
        self.refused[name] = reason
        self._count_adapters()
        await self._unload(name)

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter, whether or not the worker holds it. Raises `ServeError` where the
        worker does not let it go."""
        self.wanted.pop(name, None)
        self.refused.pop(name, None)
        self._count_adapters()
        await self._unload(name)

    async def _unload(self, name: str) -> None:
        if self._link is not None and self.ready:
            with contextlib.suppress(NotFoundError, WorkerLostError):
                await self._link.unload_adapter(name)

    def kill(self, after: float = 0.0) -> None:
        """Kills the process, if it still runs ``after`` so many seconds; `keep_running` starts
        another."""
        process = self._process

        def now() -> None:
            if process is not None and process.returncode is None:
                process.kill()

        asyncio.get_running_loop().call_later(after, now)

    def _lost(self, kill_after: float) -> None:
        # Before the process's end is noticed: a batch would come back at once and fail again, as if
        # it had taken down another worker.
        self._set_ready(False)
        self.kill(kill_after)

    async def _live(self) -> None:
        """One life of a process: start, serve, end."""
        with tempfile.TemporaryDirectory(prefix="vlm2vec-") as folder:
            address = f"unix:{folder}/worker.sock"
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vlm2vec_service.worker",
                "--base", str(self.base), "--address", address, *_flags(self.settings),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                # Ctrl-C is for the front end, which needs its workers to finish.
                start_new_session=True,
            )  # fmt: skip
            ended = asyncio.create_task(self._process.wait())
            try:
                async with open_link(address) as link:
                    greeting = asyncio.create_task(self._greet(link))
                    try:
                        await asyncio.wait({greeting, ended}, return_when=asyncio.FIRST_COMPLETED)
                        if greeting.done():
                            greeting.result()
                        # Awaiting it would cancel it when we are cancelled.
                        await asyncio.wait({ended})
                    finally:
                        greeting.cancel()
                        # While there still is a channel for who comes too late.
                        self._set_ready(False)
                    log.warning("worker %s ended with status %s", self.name, ended.result())
            finally:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()
                stopped, _ = await asyncio.wait({ended}, timeout=STOP_SECONDS)
                if not stopped:
                    self.kill()
                await asyncio.shield(ended)

    async def _watch(self, address: str) -> None:
        """A worker on another host, while it answers."""
        async with open_link(address) as link:
            await self._greet(link)
            while True:
                await asyncio.sleep(POLL)
                status = await link.status(timeout=30)
                held = self.wanted.keys() - self.refused.keys() <= status.adapters
                if not (self.ready and held):
                    return  # it could not be reached, or was restarted: greet again

    async def _greet(self, link: Link) -> None:
        """Waits for the worker, loads what it should hold, and calls it ready."""
        self._link = link
        status = await link.status()
        self.token_budget, self.dimension = status.token_budget, status.dimension
        self.device = status.device
        self.refused = {name: why for name, why in self.refused.items() if name not in self.wanted}
        for name, folder in list(self.wanted.items()):
            try:
                await link.load_adapter(name, folder, self.address is not None)
            except WorkerLostError:
                raise
            except ServeError as error:
                log.error("worker %s: adapter %s: %s", self.name, name, error)
                self.refused[name] = str(error)
        log.info("worker %s is ready on %s", self.name, status.device)
        self._set_ready(True)

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self.metrics.worker_up(self.model, self.name, ready)
        self._count_adapters()
        self.on_change()

    def _count_adapters(self) -> None:
        held = len(self.wanted.keys() - self.refused.keys()) if self.ready else 0
        self.metrics.adapters.labels(self.model, self.name).set(held)


def _flags(settings: EngineSettings) -> list[str]:
    flags = []
    for item in fields(settings):
        flags += ["--" + item.name.replace("_", "-"), str(getattr(settings, item.name))]
    return flags
