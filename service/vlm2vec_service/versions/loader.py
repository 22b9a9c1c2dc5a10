"""Brings versions into the workers and lets them go: on demand, the least lately used first out.

A version is loaded when an alias with traffic points to it, when it is preloaded, and when a
request names it. Requests for other versions run on meanwhile.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Protocol

from vlm2vec_service.errors import AdapterError, ExhaustedError, ServeError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.scheduling.batch import BatchInput
from vlm2vec_service.settings import RegistrySettings
from vlm2vec_service.versions.catalog import Version
from vlm2vec_service.versions.fetching import VersionFiles
from vlm2vec_service.versions.residency import AnsweringWorker, Residency, State
from vlm2vec_service.versions.wanted import WantedAdapter

log = logging.getLogger(__name__)


class LoadingWorker(AnsweringWorker, Protocol):
    """A worker that loads adapters."""

    async def load_adapter(self, name: str, adapter: WantedAdapter) -> None:
        """Loads an adapter now if the worker is ready, and after every restart. Raises `ServeError`
        if the worker refuses it now, or has no good vector for the probe."""

    async def unload_adapter(self, name: str) -> None:
        """Forgets an adapter. Raises `ServeError` where the worker does not let it go."""


class Loader:
    """Loads and unloads versions of one model. Single-threaded: the event loop's."""

    def __init__(
        self,
        residency: Residency,
        files: VersionFiles,
        workers: Sequence[LoadingWorker],
        preprocessor: Preprocessor,
        settings: RegistrySettings,
        metrics: Metrics,
    ) -> None:
        self.residency = residency
        self.files = files
        self.workers = workers
        self.preprocessor = preprocessor
        self.settings = settings
        self.metrics = metrics
        self.model = residency.model.name
        self.wanted: dict[str, WantedAdapter] = {}
        """What every worker is to hold, one that comes later included."""
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()
        metrics.load_failures.labels(self.model)  # from 0, for alerts

    async def ensure(self, version: Version, traffic: bool = False) -> None:
        """Returns when the workers hold ``version``; one that starts loads it before it is ready.

        One that is to get ``traffic`` is let in although there is no room. Raises `AdapterError`
        with the reason if no worker can load it, at once if that was found lately, and
        `ExhaustedError` where every place is taken by versions in use.
        """
        key = version.key
        if version.is_base:
            return
        if (held := self.residency.held.get(key)) is not None:
            if not (reason := self.residency.given_up(version)):
                held.used_at = time.monotonic()
                return
            self.residency.let_go(version)
            self.files.release(version)
            self._failed(version, reason)
        task = self._loading.get(key)
        if task is None:
            failure = self.residency.failures.get(key)
            if failure is not None and time.monotonic() < failure.until:
                raise AdapterError(
                    f"version {version.name!r} could not be loaded: {failure.reason}"
                )
            task = asyncio.create_task(self._load(version, traffic))
            self._loading[key] = task
            task.add_done_callback(lambda _: self._loading.pop(key, None))
        # Who asked first may go; others wait for the same.
        await asyncio.shield(task)

    @contextlib.asynccontextmanager
    async def using(self, version: Version) -> AsyncIterator[None]:
        """Loads ``version`` if need be, and keeps it until the block ends. Raises as `ensure`."""
        await self.ensure(version)
        while not version.is_base and version.key not in self.residency.held:  # it had to leave
            await self.ensure(version)
        with self.residency.used(version):
            yield

    async def unload(self, version: Version) -> None:
        """Takes ``version`` out of every worker, once its requests are answered; new ones load it
        again. Raises `ServeError` where a worker does not let it go."""
        async with self._changing:
            await self._unload(version)

    async def _load(self, version: Version, traffic: bool) -> None:
        name, started = version.name, time.monotonic()
        try:
            self.residency.under_way(version, State.FETCHING)
            folder, nbytes = await self.files.find(version)
            async with self._changing:
                self.residency.under_way(version, State.LOADING)
                await self._make_room(version, nbytes, traffic)
                await self._into_workers(version, folder)
                self.residency.hold(version, nbytes)
        except ExhaustedError:
            self.files.release(version)
            raise
        except ServeError as error:
            self.files.release(version)
            reason = self._failed(version, str(error))
            raise AdapterError(f"version {name!r} could not be loaded: {reason}") from error
        finally:
            self.residency.under_way(version, None)
        seconds = time.monotonic() - started
        self.metrics.load_seconds.labels(self.model).observe(seconds)
        log.info("model %s: version %s loaded in %.2f s", self.model, name, seconds)

    def _failed(self, version: Version, reason: str) -> str:
        """Notes, tells and counts why a version could not be loaded; gives the reason as callers
        may see it."""
        failure = self.residency.fail(version, reason)
        self.metrics.load_failures.labels(self.model).inc()
        log.error(
            "model %s: version %s could not be loaded, again in %.0f s: %s",
            self.model, version.name, failure.delay, reason,
        )  # fmt: skip
        return failure.reason

    async def _make_room(self, version: Version, nbytes: int, traffic: bool) -> None:
        """Unloads the least lately used until ``version`` fits."""
        while self._is_full(nbytes):
            free = self.residency.idle()
            if not free:
                if traffic:
                    return
                raise ExhaustedError(
                    f"version {version.name!r} is not loaded and there is no room: "
                    f"max_adapters is {self.settings.max_adapters}, max_adapter_bytes "
                    f"{self.settings.max_adapter_bytes}, and all that is loaded is in use",
                    retry_after=1.0,
                )
            await self._unload(free[0].version)

    def _is_full(self, nbytes: int) -> bool:
        held = self.residency.held.values()
        return bool(held) and (
            len(held) >= self.settings.max_adapters
            or sum(one.nbytes for one in held) + nbytes > self.settings.max_adapter_bytes
        )

    async def _into_workers(self, version: Version, folder: Path) -> None:
        """Loads the version into every worker. Raises the first refusal, and takes the version out
        again, unless a worker that is ready took it."""
        just_found = [folder]

        async def find() -> Path:
            # A worker that restarts has it verified again, and fetched again if it is damaged.
            return just_found[0] if just_found else (await self.files.find(version))[0]

        adapter = WantedAdapter(find, await asyncio.to_thread(self._probe, version))
        self.wanted[version.key] = adapter
        refusals: list[ServeError] = []
        for worker in list(self.workers):
            try:
                await worker.load_adapter(version.key, adapter)
            except ServeError as error:
                refusals.append(error)
                log.error("worker %s: version %s: %s", worker.name, version.name, error)
        just_found.clear()
        answering = any(w.ready and version.key not in w.refused for w in self.workers)
        if refusals and not answering:
            await self._out_of_workers(version)
            raise refusals[0]
        if refusals:
            self.metrics.load_failures.labels(self.model).inc()

    def _probe(self, version: Version) -> BatchInput:
        prepared = self.preprocessor.prepare(Request(text="warm up"), version.config)
        return BatchInput(prepared, version.key, normalize=True)

    async def _unload(self, version: Version) -> None:
        held = self.residency.let_go(version)
        if held is None:
            return
        # From here on a request for it waits for it to be loaded anew.
        while held.users:
            await asyncio.sleep(0.01)
        await self._out_of_workers(version)
        self.files.release(version)
        log.info("model %s: version %s unloaded", self.model, version.name)

    async def _out_of_workers(self, version: Version) -> None:
        self.wanted.pop(version.key, None)
        for worker in list(self.workers):
            await worker.unload_adapter(version.key)
