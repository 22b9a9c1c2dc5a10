"""Workers as the front end sees them: started, watched and restarted, or reached over TCP."""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path

import grpc

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_registry import artifact
from vlm2vec_service import tracing
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS

log = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 30.0
"""Seconds before a restart; doubled each time, forgotten after a batch or a minute of health."""
HEALTHY_AFTER = 60.0
STOP_SECONDS = 15.0
"""What a worker is given to stop by itself."""
POLL = 2.0
"""Seconds between looks at a worker on another host."""
CLIENT_OPTIONS = (*CHANNEL_OPTIONS, ("grpc.max_reconnect_backoff_ms", 200))
"""By default a worker that got ready would go unnoticed for seconds."""


class Worker:
    """One worker: keeps it alive and tells it which adapters to hold.

    ``address`` of another host's worker, or None for a process of its own. ``on_change`` is called
    whenever it gets ready or stops being it.
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
        self.failed_adapters: dict[str, str] = {}
        self.wanted: dict[str, Path] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._stub: worker_pb2_grpc.WorkerServiceAsyncStub | None = None
        self._process: asyncio.subprocess.Process | None = None
        self._backoff = FIRST_BACKOFF

    async def keep_running(self) -> None:
        """Runs until cancelled; then the process is stopped."""
        self.metrics.worker_up(self.model, self.name, False)
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await (self._live() if self.address is None else self._watch(self.address))
            except (OSError, grpc.aio.AioRpcError) as error:
                log.error("worker %s: %s", self.name, error)
            finally:
                self._set_ready(False)
            if asyncio.get_running_loop().time() - started > HEALTHY_AFTER:
                self._backoff = FIRST_BACKOFF
            log.warning("worker %s is down, again in %.1f s", self.name, self._backoff)
            await asyncio.sleep(self._backoff)
            self._backoff = min(2 * self._backoff, LAST_BACKOFF)
            self.metrics.restarts.labels(self.model, self.name).inc()

    async def run_batch(self, request: worker_pb2.RunBatchRequest) -> worker_pb2.RunBatchResponse:
        """Raises `grpc.aio.AioRpcError`. A worker that does not answer in time is killed."""
        assert self._stub is not None
        try:
            with _gone_is_unavailable():
                response = await self._stub.RunBatch(request, timeout=self.batch_timeout)
        except grpc.aio.AioRpcError as error:
            hangs = error.code() == grpc.StatusCode.DEADLINE_EXCEEDED
            if hangs or error.code() == grpc.StatusCode.UNAVAILABLE:
                # Before its end is noticed: the batch would come back at once and fail again, as
                # if it had taken down another worker.
                self._set_ready(False)
                self.kill(0.0 if hangs else STOP_SECONDS)
            if not hangs:
                raise
            log.error("worker %s hangs: killed", self.name)
            raise _died("killed: it hung") from error
        self._backoff = FIRST_BACKOFF
        return response

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Loads now if it is ready, and after every restart. Raises `grpc.aio.AioRpcError` if the
        worker refuses it, and does not try again then."""
        self.wanted[name] = folder
        try:
            if self._stub is not None and self.ready:
                request = await asyncio.to_thread(self._load_request, name, folder)
                with _gone_is_unavailable():
                    await self._stub.LoadAdapter(request)
                self.failed_adapters.pop(name, None)
        except grpc.aio.AioRpcError as error:
            # A worker that is gone loads it when it is back.
            if error.code() != grpc.StatusCode.UNAVAILABLE:
                self.wanted.pop(name, None)
                raise
        finally:
            self._count_adapters()

    async def unload_adapter(self, name: str) -> None:
        """Forgets it. Raises `grpc.aio.AioRpcError`."""
        self.wanted.pop(name, None)
        self.failed_adapters.pop(name, None)
        self._count_adapters()
        if self._stub is not None and self.ready:
            with _gone_is_unavailable():
                await self._stub.UnloadAdapter(worker_pb2.UnloadAdapterRequest(name=name))

    def kill(self, after: float = 0.0) -> None:
        """Kills the process, if it still runs then; `keep_running` starts another."""
        process = self._process

        def now() -> None:
            if process is not None and process.returncode is None:
                process.kill()

        asyncio.get_running_loop().call_later(after, now)

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
                async with _channel(address) as channel:
                    greeting = asyncio.create_task(self._greet(channel))
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
        async with _channel(address) as channel:
            await self._greet(channel)
            assert self._stub is not None
            while True:
                await asyncio.sleep(POLL)
                status = await self._stub.GetStatus(worker_pb2.GetStatusRequest(), timeout=30)
                held = set(self.wanted) - set(self.failed_adapters) <= set(status.adapters)
                if not (self.ready and held):
                    return  # it could not be reached, or was restarted: greet again

    async def _greet(self, channel: grpc.aio.Channel) -> None:
        """Waits for the worker, loads what it should hold, and calls it ready."""
        self._stub = worker_pb2_grpc.WorkerServiceStub(channel)
        status = await self._stub.GetStatus(worker_pb2.GetStatusRequest(), wait_for_ready=True)
        self.token_budget, self.dimension = status.token_budget, status.dimension
        self.device = status.device
        self.failed_adapters.clear()
        for name, folder in list(self.wanted.items()):
            try:
                request = await asyncio.to_thread(self._load_request, name, folder)
                await self._stub.LoadAdapter(request)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    raise
                log.error("worker %s: adapter %s: %s", self.name, name, error.details())
                self.failed_adapters[name] = error.details() or error.code().name
        log.info("worker %s is ready on %s", self.name, status.device)
        self._set_ready(True)

    def _load_request(self, name: str, folder: Path) -> worker_pb2.LoadAdapterRequest:
        """By the folder's path here, or with its files for another host. What is missing is for the
        worker to say."""
        if self.address is None:
            return worker_pb2.LoadAdapterRequest(name=name, folder=str(folder))
        paths = (folder / file for file in artifact.FILES)
        files = {path.name: path.read_bytes() for path in paths if path.is_file()}
        return worker_pb2.LoadAdapterRequest(name=name, folder=str(folder), files=files)

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self.metrics.worker_up(self.model, self.name, ready)
        self._count_adapters()
        self.on_change()

    def _count_adapters(self) -> None:
        held = len(self.wanted) - len(self.failed_adapters) if self.ready else 0
        self.metrics.adapters.labels(self.model, self.name).set(held)


def _channel(address: str) -> grpc.aio.Channel:
    return grpc.aio.insecure_channel(
        address, options=CLIENT_OPTIONS, interceptors=tracing.channel_interceptors()
    )


def _flags(settings: EngineSettings) -> list[str]:
    flags = []
    for item in fields(settings):
        flags += ["--" + item.name.replace("_", "-"), str(getattr(settings, item.name))]
    return flags


def _died(details: str) -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), details
    )


@contextlib.contextmanager
def _gone_is_unavailable() -> Iterator[None]:
    """For calls to a worker: when their channel is closed, gRPC cancels whoever awaits them, who
    would take that for the end of its own task."""
    try:
        yield
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise _died("the worker is gone") from error
