"""Workers as the front end sees them: started, watched and restarted, or reached over TCP."""

import asyncio
import contextlib
import logging
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import grpc

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS

log = logging.getLogger(__name__)

FIRST_BACKOFF, LAST_BACKOFF = 0.1, 30.0
"""Seconds before a restart; doubled each time, forgotten after a minute of health."""
HEALTHY_AFTER = 60.0
POLL = 2.0
"""Seconds between looks at a worker on another host."""


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
        self.ready = False
        self.failed_adapters: dict[str, str] = {}
        self.wanted: dict[str, Path] = {}
        self.on_change: Callable[[], None] = lambda: None
        self._stub: worker_pb2_grpc.WorkerServiceAsyncStub | None = None
        self._process: asyncio.subprocess.Process | None = None

    async def keep_running(self) -> None:
        """Runs until cancelled; then the process is stopped."""
        self.metrics.worker_up(self.model, self.name, False)
        backoff = FIRST_BACKOFF
        while True:
            started = asyncio.get_running_loop().time()
            try:
                await (self._live() if self.address is None else self._watch(self.address))
            except (OSError, grpc.aio.AioRpcError) as error:
                log.error("worker %s: %s", self.name, error)
            finally:
                self._set_ready(False)
            if asyncio.get_running_loop().time() - started > HEALTHY_AFTER:
                backoff = FIRST_BACKOFF
            log.warning("worker %s is down, again in %.1f s", self.name, backoff)
            await asyncio.sleep(backoff)
            backoff = min(2 * backoff, LAST_BACKOFF)
            self.metrics.restarts.labels(self.model, self.name).inc()

    async def run_batch(self, request: worker_pb2.RunBatchRequest) -> worker_pb2.RunBatchResponse:
        """Raises `grpc.aio.AioRpcError`. A worker that does not answer in time is killed."""
        assert self._stub is not None
        try:
            return await self._stub.RunBatch(request, timeout=self.batch_timeout)
        except grpc.aio.AioRpcError as error:
            if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
                raise
            log.error("worker %s hangs: killed", self.name)
            self.kill()
            raise _died() from error

    async def load_adapter(self, name: str, folder: Path) -> None:
        """Loads now, and again after every restart. Raises `grpc.aio.AioRpcError`."""
        if self._stub is not None and self.ready:
            request = worker_pb2.LoadAdapterRequest(name=name, folder=str(folder))
            await self._stub.LoadAdapter(request)
        self.wanted[name] = folder
        self.failed_adapters.pop(name, None)

    async def unload_adapter(self, name: str) -> None:
        """Forgets it. Raises `grpc.aio.AioRpcError`."""
        self.wanted.pop(name, None)
        if self._stub is not None and self.ready:
            await self._stub.UnloadAdapter(worker_pb2.UnloadAdapterRequest(name=name))

    def kill(self) -> None:
        """Kills the process; `keep_running` starts another."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()

    async def _live(self) -> None:
        """One life of a process: start, serve, end."""
        with tempfile.TemporaryDirectory(prefix="vlm2vec-") as folder:
            address = f"unix:{folder}/worker.sock"
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "vlm2vec_service", "worker",
                "--base", str(self.base), "--address", address, *_flags(self.settings),
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip
            ended = asyncio.create_task(self._process.wait())
            try:
                async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
                    greeting = asyncio.create_task(self._greet(channel))
                    await asyncio.wait({greeting, ended}, return_when=asyncio.FIRST_COMPLETED)
                    if not greeting.done():
                        greeting.cancel()
                    else:
                        greeting.result()
                    log.warning("worker %s ended with status %s", self.name, await ended)
            finally:
                with contextlib.suppress(ProcessLookupError):
                    self._process.terminate()
                await asyncio.shield(ended)

    async def _watch(self, address: str) -> None:
        """A worker on another host, while it answers."""
        async with grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS) as channel:
            await self._greet(channel)
            assert self._stub is not None
            while True:
                await asyncio.sleep(POLL)
                status = await self._stub.GetStatus(worker_pb2.GetStatusRequest(), timeout=30)
                if not set(self.wanted) - set(self.failed_adapters) <= set(status.adapters):
                    return  # it was restarted: greet again

    async def _greet(self, channel: grpc.aio.Channel) -> None:
        """Waits for the worker, loads what it should hold, and calls it ready."""
        self._stub = worker_pb2_grpc.WorkerServiceStub(channel)
        status = await self._stub.GetStatus(worker_pb2.GetStatusRequest(), wait_for_ready=True)
        self.token_budget, self.dimension = status.token_budget, status.dimension
        self.failed_adapters.clear()
        for name, folder in list(self.wanted.items()):
            try:
                request = worker_pb2.LoadAdapterRequest(name=name, folder=str(folder))
                await self._stub.LoadAdapter(request)
            except grpc.aio.AioRpcError as error:
                if error.code() == grpc.StatusCode.UNAVAILABLE:
                    raise
                log.error("worker %s: adapter %s: %s", self.name, name, error.details())
                self.failed_adapters[name] = error.details() or error.code().name
        log.info("worker %s is ready on %s", self.name, status.device)
        self._set_ready(True)

    def _set_ready(self, ready: bool) -> None:
        self.ready = ready
        self.metrics.worker_up(self.model, self.name, ready)
        held = len(self.wanted) - len(self.failed_adapters) if ready else 0
        self.metrics.adapters.labels(self.model, self.name).set(held)
        self.on_change()


def _flags(settings: EngineSettings) -> list[str]:
    flags = []
    for item in fields(settings):
        flags += ["--" + item.name.replace("_", "-"), str(getattr(settings, item.name))]
    return flags


def _died() -> grpc.aio.AioRpcError:
    return grpc.aio.AioRpcError(
        grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "killed: it hung"
    )
