"""Which versions of a model its workers hold: fetched, verified, loaded, warmed up, and let go.

A version is loaded when an alias with traffic points to it, when it is preloaded, and when a request
names it. Requests for other versions run on meanwhile.
"""

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np

from vlm2vec.worker.v1 import worker_pb2
from vlm2vec_registry import artifact
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.space import space_of
from vlm2vec_registry.store import PublishedVersion
from vlm2vec_service.errors import AdapterError, ExhaustedError, ServeError
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.preprocess import Preprocessor, Request
from vlm2vec_service.settings import RegistrySettings
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.versions.catalog import Model, Version
from vlm2vec_service.worker.codec import decode_vectors, encode_item

log = logging.getLogger(__name__)

FIRST_RETRY, LAST_RETRY = 1.0, 60.0
"""Seconds before a version that could not be loaded is tried again; doubled each time."""

FETCHES = 4
"""Versions that are fetched and verified at once."""
FETCHING_NICENESS = 10
"""Of the threads that do it, on Linux: requests get nine tenths of a core that both want."""

Fetch = Callable[[PublishedVersion, Path], None]
"""Puts a version's files into an empty folder."""


@dataclass
class Held:
    """A version that the workers hold. ``users`` are the requests that it answers now."""

    version: Version
    nbytes: int
    used_at: float
    users: int = 0


@dataclass(frozen=True)
class Failure:
    """Why a version could not be loaded, and when it may be tried again."""

    reason: str
    until: float
    delay: float


class Loader:
    """Loads and unloads versions of one model. Single-threaded: the event loop's."""

    def __init__(
        self,
        model: Model,
        workers: Sequence[Worker],
        preprocessor: Preprocessor,
        settings: RegistrySettings,
        metrics: Metrics,
        cache: Cache | None = None,
        fetch: Fetch | None = None,
    ) -> None:
        self.model = model
        self.workers = workers
        self.preprocessor = preprocessor
        self.settings = settings
        self.metrics = metrics
        self.cache = cache
        self.fetch = fetch
        self.held: dict[str, Held] = {}
        self.failures: dict[str, Failure] = {}
        self._loading: dict[str, asyncio.Task[None]] = {}
        self._changing = asyncio.Lock()
        self._fetching = ThreadPoolExecutor(FETCHES, "fetching", _give_way)
        metrics.load_failures.labels(model.name)  # from 0, for alerts

    def is_loading(self, name: str) -> bool:
        """Whether a version is on its way."""
        return name in self._loading

    async def ensure(self, version: Version, traffic: bool = False) -> None:
        """Returns when the workers hold ``version``; those that start load it before they are ready.

        One that is to get ``traffic`` is let in although there is no room. Raises `AdapterError` with the reason if it cannot be loaded, at once if that was found
        lately, and `ExhaustedError` where every place is taken by versions in use.
        """
        if version.is_base:
            return
        held = self.held.get(version.name)
        if held is not None:
            held.used_at = time.monotonic()
            return
        task = self._loading.get(version.name)
        if task is None:
            failure = self.failures.get(version.name)
            if failure is not None and time.monotonic() < failure.until:
                raise AdapterError(
                    f"version {version.name!r} could not be loaded: {failure.reason}"
                )
            task = asyncio.create_task(self._load(version, traffic))
            self._loading[version.name] = task
            task.add_done_callback(lambda _: self._loading.pop(version.name, None))
        # Who asked first may go; others wait for the same.
        await asyncio.shield(task)

    @contextlib.asynccontextmanager
    async def using(self, version: Version) -> AsyncIterator[None]:
        """Loads ``version`` if need be, and keeps it until the block ends. Raises as `ensure`."""
        await self.ensure(version)
        while not version.is_base and version.name not in self.held:  # it had to leave at once
            await self.ensure(version)
        with self._counted(version.name):
            yield

    async def unload(self, version: Version) -> None:
        """Takes ``version`` out of every worker, once its requests are answered; new ones load it
        again. Raises `AdapterError` where a worker refuses."""
        async with self._changing:
            await self._unload(version.name)

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        held = self.held.get(name)
        if held is None:  # the base model
            yield
            return
        held.users += 1
        try:
            yield
        finally:
            held.users -= 1
            held.used_at = time.monotonic()

    async def _load(self, version: Version, traffic: bool) -> None:
        started = time.monotonic()
        try:
            loop = asyncio.get_running_loop()
            folder, nbytes = await loop.run_in_executor(self._fetching, self._files, version)
            async with self._changing:
                await self._make_room(version, nbytes, traffic)
                await self._into_workers(version, folder)
                self.held[version.name] = Held(version, nbytes, time.monotonic())
        except ExhaustedError:
            self._let_go(version)
            raise
        except ServeError as error:
            self._let_go(version)
            self._failed(version, error)
            raise AdapterError(f"version {version.name!r} could not be loaded: {error}") from error
        self.failures.pop(version.name, None)
        seconds = time.monotonic() - started
        self.metrics.load_seconds.labels(self.model.name).observe(seconds)
        log.info("model %s: version %s loaded in %.2f s", self.model.name, version.name, seconds)

    def _failed(self, version: Version, error: Exception) -> None:
        before = self.failures.get(version.name)
        delay = min(2 * before.delay, LAST_RETRY) if before else FIRST_RETRY
        self.failures[version.name] = Failure(str(error), time.monotonic() + delay, delay)
        self.metrics.load_failures.labels(self.model.name).inc()
        log.error(
            "model %s: version %s could not be loaded, again in %.0f s: %s",
            self.model.name, version.name, delay, error,
        )  # fmt: skip

    def _files(self, version: Version) -> tuple[Path, int]:
        """The version's folder on disk, verified, and the bytes of its weights."""
        folder = version.folder
        if version.published is not None:
            folder = self._fetched(version.published)
        assert folder is not None
        try:
            return folder, (folder / artifact.WEIGHTS).stat().st_size
        except OSError as error:
            raise AdapterError(str(error)) from error

    def _fetched(self, published: PublishedVersion) -> Path:
        assert self.cache is not None
        assert self.fetch is not None
        fetch = self.fetch
        if published.base != self.model.digest.hex():
            raise AdapterError(
                f"made for another base (digest {published.base[:12]}, "
                f"served is {self.model.digest.hex()[:12]}); serve that one, or train on this"
            )
        folder = self.cache.get(published.digests, lambda place: fetch(published, place))
        try:
            weights = published.digests[artifact.WEIGHTS]
            space = space_of(self.model.digest, folder, weights)
        except (OSError, ValueError) as error:
            raise AdapterError(str(error)) from error
        if space != published.space:
            raise AdapterError(
                f"it makes vectors of space {space}, not {published.space} as tagged"
            )
        return folder

    async def _make_room(self, version: Version, nbytes: int, traffic: bool) -> None:
        """Unloads the least lately used until ``version`` fits."""
        while self._is_full(nbytes):
            free = [
                name
                for name, held in self.held.items()
                if not held.users and name not in self.model.in_traffic
            ]
            if not free:
                if traffic:
                    return
                raise ExhaustedError(
                    f"version {version.name!r} is not loaded and there is no room: "
                    f"max_adapters is {self.settings.max_adapters}, max_adapter_bytes "
                    f"{self.settings.max_adapter_bytes}, and all that is loaded is in use",
                    retry_after=1.0,
                )
            await self._unload(min(free, key=lambda name: self.held[name].used_at))

    def _is_full(self, nbytes: int) -> bool:
        total = sum(held.nbytes for held in self.held.values())
        return bool(self.held) and (
            len(self.held) >= self.settings.max_adapters
            or total + nbytes > self.settings.max_adapter_bytes
        )

    async def _into_workers(self, version: Version, folder: Path) -> None:
        item = await asyncio.to_thread(self._warm_up_item, version)
        try:
            for worker in self.workers:
                await worker.load_adapter(version.name, folder)
                # A CPU has nothing to warm up, and the batch would cost the requests beside it.
                if worker.ready and worker.device != "cpu":
                    await _warm_up(worker, item)
        except grpc.aio.AioRpcError as error:
            await self._out_of_workers(version.name)
            raise AdapterError(error.details() or error.code().name) from error
        except AdapterError:
            await self._out_of_workers(version.name)
            raise

    def _warm_up_item(self, version: Version) -> worker_pb2.Item:
        prepared = self.preprocessor.prepare(Request(text="warm up"), version.embedding)
        return encode_item(prepared, version.name, None)

    async def _unload(self, name: str) -> None:
        held = self.held.pop(name, None)
        if held is None:
            return
        # From here on a request for it waits for it to be loaded anew.
        while held.users:
            await asyncio.sleep(0.01)
        await self._out_of_workers(name)
        self._let_go(held.version)
        log.info("model %s: version %s unloaded", self.model.name, name)

    def _let_go(self, version: Version) -> None:
        if version.published is not None and self.cache is not None:
            self.cache.release(version.published.digests)

    async def _out_of_workers(self, name: str) -> None:
        for worker in self.workers:
            try:
                await worker.unload_adapter(name)
            except grpc.aio.AioRpcError as error:
                gone = (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.UNAVAILABLE)
                if error.code() not in gone:
                    raise AdapterError(f"version {name!r}: {error.details()}") from error


def _give_way() -> None:
    """Lowers this thread's priority, for the rest of its life."""
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), FETCHING_NICENESS)


async def _warm_up(worker: Worker, item: worker_pb2.Item) -> None:
    """One batch, so that the first request does not pay for what a device does once. Raises
    `AdapterError` where the vector is not finite."""
    try:
        response = await worker.run_batch(worker_pb2.RunBatchRequest(items=[item]))
    except grpc.aio.AioRpcError as error:
        if error.code() == grpc.StatusCode.UNAVAILABLE:  # it loads the version when it is back
            return
        raise
    if not np.isfinite(decode_vectors(response, 1)).all():
        raise AdapterError("its vectors are not finite numbers")
