"""A worker as the front end sees it: started, watched and restarted, or reached over TCP."""

import asyncio
import contextlib
import logging
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from pathlib import Path

from vlm2vec_service.errors import (
    DeadlineError,
    NotFoundError,
    ServeError,
    StartError,
    WorkerLostError,
    without_paths,
)
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.batch import BatchInput, BatchResult
from vlm2vec_service.scheduling.suspects import CRASHES
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.supervision.backoff import Backoff
from vlm2vec_service.supervision.child import STOP_SECONDS, child, kill
from vlm2vec_service.supervision.link import Link, WorkerStatus, open_link
from vlm2vec_service.versions.wanted import WantedAdapter
from vlm2vec_service.worker.codec import ARITHMETIC

log = logging.getLogger(__name__)

LOAD_SECONDS = 120.0
"""What a worker is given to load one adapter, and to answer its probe, before it is taken to
hang."""
DEATHS = 2
"""Times that a worker may die over the loading of an adapter before it refuses it."""
SHARED_DEATHS = 2 + CRASHES
"""The same of a worker that other processes use, too: an input of theirs may take it down once
among others and `CRASHES` times alone, each time while an adapter of ours is loaded."""
POLL = 2.0
"""Seconds between looks at a worker that this process has not started."""
REACH_PAUSE = 0.2
"""Seconds until a worker that did not answer is asked again."""
SILENCE_SECONDS = 10.0
"""How long a worker on another host may not answer before that is said."""
HOLDER = uuid.uuid4().hex
"""What this process goes by in workers that others use, too."""


class Worker:
    """One worker: keeps it alive and tells it which adapters to hold.

    ``base_digest`` is what the base that it runs has to have; ``address`` is that of a worker which
    others started, maybe on another host, or None for a process of its own, which listens on
    ``socket`` or else where nobody finds it. ``wanted`` are the adapters that it should hold, by
    name; ``refused`` are those of them that it could not load or cannot answer with, and why.
    ``on_change`` is called whenever the worker gets ready or stops being it.
    """

    def __init__(
        self,
        name: str,
        model: str,
        base: Path,
        base_digest: bytes,
        settings: EngineSettings,
        metrics: Metrics,
        batch_timeout: float,
        address: str | None = None,
        socket: Path | None = None,
    ) -> None:
        self.name = name
        self.model = model
        self.base = base
        self.base_digest = base_digest
        self.settings = settings
        self.metrics = metrics
        self.batch_timeout = batch_timeout
        self.address = address
        self.shared = address is not None
        # A worker that the owner of this process started is told of by the owner.
        self._reports = address is None or self.is_remote
        self.socket = socket
        self.token_budget = 0
        self.dimension = 0
        self.ready = False
        self.wanted: dict[str, WantedAdapter] = {}
        self.refused: dict[str, str] = {}
        self._deaths: dict[str, int] = {}
        self._unready = asyncio.Event()
        self.on_change: Callable[[], None] = lambda: None
        self._link: Link | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._backoff = Backoff()

    @property
    def is_remote(self) -> bool:
        """Whether it does not see this host's disk."""
        return self.address is not None and not self.address.startswith("unix:")

    async def keep_running(self) -> None:
        """Runs until cancelled; then the process is stopped."""
        self._tell(False)
        if self._reports:
            self.metrics.silence.labels(self.model, self.name).set(0)
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await (self._live() if self.address is None else self._watch(self.address))
            except (OSError, ServeError) as error:
                log.error("worker %s: %s", self.name, error)
            finally:
                self._set_ready(False)
            pause = self._backoff.after(asyncio.get_running_loop().time() - started)
            log.warning("worker %s is down, again in %.1f s", self.name, pause)
            await asyncio.sleep(pause)
            if self._reports:
                self.metrics.restarts.labels(self.model, self.name).inc()

    async def run(
        self,
        inputs: Sequence[BatchInput],
        interactive: bool,
        callers: Mapping[str, int],
        begun: Callable[[], None],
    ) -> BatchResult:
        """Runs a batch; see `BatchWorker.run`."""
        assert self._link is not None
        try:
            result = await self._link.run(inputs, interactive, callers, begun)
        except WorkerLostError:
            self._lost(STOP_SECONDS)
            raise
        self._backoff.forget()
        return result

    def hung(self) -> None:
        """Kills the process of a worker that took too long over a batch."""
        log.error("worker %s hangs: killed", self.name)
        self._lost(0.0)
        if self.shared and self._link is not None:
            self._link.kill()

    async def load_adapter(self, name: str, adapter: WantedAdapter) -> None:
        """Loads an adapter now if the worker is ready, and after every restart. Raises `ServeError`
        if the worker refuses it now, or has no good vector for the probe."""
        self.wanted[name] = adapter
        self.refused.pop(name, None)
        self._deaths.pop(name, None)
        # A worker that is gone loads it when it is back.
        with contextlib.suppress(WorkerLostError):
            if self._link is not None and self.ready:
                await self._load(self._link, name, adapter)

    async def _load(self, link: Link, name: str, adapter: WantedAdapter) -> None:
        """Has the worker load an adapter and answer the probe; remembers why it could not."""
        try:
            folder = await adapter.find()
            await link.load_adapter(name, folder, self.is_remote, LOAD_SECONDS)
            adapter.check(await link.run([adapter.probe], True, timeout=LOAD_SECONDS))
            self._deaths.pop(name, None)
        except (DeadlineError, WorkerLostError) as error:
            hung = isinstance(error, DeadlineError)
            self._deaths[name] = self._deaths.get(name, 0) + 1
            if hung or self._deaths[name] >= (SHARED_DEATHS if self.shared else DEATHS):
                self.refused[name] = f"loading it takes the worker down ({error})"
            self._lost(0.0 if hung else STOP_SECONDS)
            raise WorkerLostError(f"adapter {name}: {error}") from error
        except ServeError as error:
            self.refused[name] = without_paths(str(error))
            with contextlib.suppress(ServeError):
                await link.unload_adapter(name)
            raise
        finally:
            self._count_adapters()

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter, whether or not the worker holds it. Raises `ServeError` where the
        worker does not let it go."""
        self.wanted.pop(name, None)
        self.refused.pop(name, None)
        self._deaths.pop(name, None)
        self._count_adapters()
        if self._link is not None and self.ready:
            with contextlib.suppress(NotFoundError, WorkerLostError):
                await self._link.unload_adapter(name)

    def kill(self, after: float = 0.0) -> None:
        """Kills the process, if it still runs ``after`` so many seconds; `keep_running` starts
        another."""
        if self._process is not None:
            asyncio.get_running_loop().call_later(after, kill, self._process)

    def _lost(self, kill_after: float) -> None:
        # Before the process's end is noticed: a batch would come back at once and fail again, as if
        # it had taken down another worker.
        self._set_ready(False)
        self.kill(kill_after)

    async def _live(self) -> None:
        """One life of a process: start, serve, end."""
        with tempfile.TemporaryDirectory(prefix="vlm2vec-") as folder:
            address = f"unix:{self.socket or Path(folder) / 'worker.sock'}"
            async with (
                child(self.base, address, self.settings) as self._process,
                open_link(address) as link,
            ):
                ended = asyncio.create_task(self._process.wait())
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

    async def _watch(self, address: str) -> None:
        """A worker on another host, while it answers."""
        async with open_link(address, HOLDER) as link:
            await self._greet(link)
            while self.ready:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(POLL):
                        await self._unready.wait()
                status = await link.status(timeout=30)
                held = self.wanted.keys() - self.refused.keys() <= status.adapters
                if not (self.ready and held):
                    return  # it could not be reached, or was restarted: greet again

    async def _reach(self, link: Link) -> WorkerStatus:
        """Waits for a worker on another host; while it does not answer, a metric tells for how
        long, and the log ever more rarely."""
        clock = asyncio.get_running_loop().time
        asked, said = clock(), SILENCE_SECONDS / 2
        silence = self.metrics.silence.labels(self.model, self.name)
        try:
            while True:
                try:
                    return await link.status(timeout=SILENCE_SECONDS)
                except (DeadlineError, WorkerLostError) as error:
                    silent = clock() - asked
                    silence.set(silent)
                    if silent >= 2 * said:
                        said = silent
                        log.warning(
                            "worker %s does not answer for %.0f s: %s", self.name, silent, error
                        )
                await asyncio.sleep(REACH_PAUSE)
        finally:
            silence.set(0)  # it answers, or nobody waits for it any more

    async def _greet(self, link: Link) -> None:
        """Waits for the worker, loads what it should hold, and calls it ready."""
        self._link = link
        status = await (self._reach(link) if self.is_remote else link.status())
        self._check(status)
        self.token_budget, self.dimension = status.token_budget, status.dimension
        # What was refused before may hold up what was not: it is for later.
        later = self.wanted.keys() & self.refused.keys() - self._deaths.keys()
        loaded: set[str] = set()
        # More may be wanted while these are loaded.
        while missing := self.wanted.keys() - self.refused.keys() - loaded:
            await self._load_all(link, missing)
            loaded |= missing
        log.info("worker %s is ready on %s, %s", self.name, status.device, status.dtype)
        self._set_ready(True)
        await self._load_all(link, later)
        if later:
            self.on_change()

    async def _load_all(self, link: Link, names: AbstractSet[str]) -> None:
        """Loads those of the wanted adapters, in the order in which they were wanted."""
        for name, adapter in list(self.wanted.items()):
            if name not in names:
                continue
            self.refused.pop(name, None)
            try:
                await self._load(link, name, adapter)
            except WorkerLostError:
                raise
            except ServeError as error:
                log.error("worker %s: adapter %s: %s", self.name, name, error)

    def _check(self, status: WorkerStatus) -> None:
        """Refuses a worker whose vectors would be of another space than they are said to be."""
        if not status.base_digest:
            log.warning("worker %s does not say which base it runs: upgrade it", self.name)
        elif status.base_digest != self.base_digest:
            raise StartError(
                f"worker {self.name} runs another base (digest {status.base_digest.hex()[:12]}) "
                f"than model {self.model} (digest {self.base_digest.hex()[:12]}): "
                f"start it on the files of {self.base}"
            )
        elif status.arithmetic != ARITHMETIC:
            raise StartError(
                f"worker {self.name} has arithmetic {status.arithmetic}, this front end "
                f"{ARITHMETIC}: their vectors differ; run one release on both"
            )

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        if ready:
            self._unready.clear()
        else:
            self._unready.set()
        self._tell(ready)
        self._count_adapters()
        self.on_change()

    def _tell(self, ready: bool) -> None:
        if self._reports:
            self.metrics.worker_up(self.model, self.name, ready)

    def _count_adapters(self) -> None:
        held = len(self.wanted.keys() - self.refused.keys()) if self.ready else 0
        self.metrics.adapters.labels(self.model, self.name).set(held)
