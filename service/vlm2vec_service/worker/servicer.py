"""The worker process: batches in, vectors out, one at a time on its device."""

import collections
import contextlib
import itertools
import logging
import os
import queue
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import grpc
import numpy as np
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_registry import artifact
from vlm2vec_service import tracing
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.linear import LowRank
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.errors import Code, ServeError, StartError
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS, decode_item

log = logging.getLogger(__name__)
THREADS = 8
"""Calls at once: two or three batches, and loading, unloading and status beside them."""

LOADING_SHARE = 0.1
"""Of a batch's time, that loading adapters may take after it while further batches wait."""

T = TypeVar("T")
Vectors = np.ndarray[tuple[int, int], np.dtype[np.float32]]


class Device:
    """Runs batches, interactive ones first, otherwise in the order of arrival; and between them,
    in small steps, what loading an adapter computes.

    All in the thread that calls `run_until`, which should be the one that loaded the engine: where
    two threads of a process have OpenMP teams, together more than the cores, libgomp lets neither
    spin, and every small operation on a CPU waits for the kernel.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._order = itertools.count()
        self._waiting: queue.PriorityQueue[tuple[int, int, Callable[[], None]]] = (
            queue.PriorityQueue()
        )
        self._steps: collections.deque[Callable[[], None]] = collections.deque()
        self._ended = False

    def submit(self, items: list[Item], interactive: bool) -> Future[tuple[Vectors, float]]:
        """The vectors ``(items, dim)`` and the seconds on the device, in time."""

        def timed() -> tuple[Vectors, float]:
            start = time.perf_counter()
            return self.run(items), time.perf_counter() - start

        future, work = _promise(timed)
        self._waiting.put((0 if interactive else 1, next(self._order), work))
        return future

    def spread(self, steps: Sequence[Callable[[], LowRank]]) -> list[LowRank]:
        """Runs ``steps`` while no batch waits, and otherwise for a share of the time after each."""
        promised = [_promise(step) for step in steps]
        for _, work in promised:
            self._steps.append(work)
            self._waiting.put((2, next(self._order), self._step))
        if self._ended:
            self._finish_steps()
        return [future.result() for future, _ in promised]

    def _step(self) -> None:
        with contextlib.suppress(IndexError):
            self._steps.popleft()()

    def _finish_steps(self) -> None:
        while self._steps:
            self._step()

    def run(self, items: list[Item]) -> Vectors:
        """One batch; where the device's memory does not hold it, its halves."""
        try:
            return self.engine.run(items)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            if len(items) == 1:
                raise
            log.warning("out of memory: a batch of %d is split", len(items))
            middle = len(items) // 2
            return np.concatenate([self.run(items[:middle]), self.run(items[middle:])])

    def run_until(self, ended: Callable[[], bool]) -> None:
        """Works until ``ended``, which is asked after every batch and several times a second."""
        while not ended():
            with contextlib.suppress(queue.Empty):
                _, _, work = self._waiting.get(timeout=0.2)
                start = time.perf_counter()
                work()
                end = time.perf_counter()
                while self._steps and time.perf_counter() < end + LOADING_SHARE * (end - start):
                    self._step()
        # Nobody is left waiting for a step.
        self._ended = True
        self._finish_steps()


def _promise(function: Callable[[], T]) -> tuple[Future[T], Callable[[], None]]:
    """A future, and what fulfils it with what ``function`` gives or raises."""
    future: Future[T] = Future()

    def work() -> None:
        if not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 (whoever waits raises it)
            future.set_exception(error)

    return future, work


class Worker(worker_pb2_grpc.WorkerServiceServicer):
    """`WorkerService` on one engine."""

    def __init__(self, engine: Engine, base: Path) -> None:
        self.engine = engine
        self.base = base
        self.device = Device(engine)

    def RunBatch(
        self, request: worker_pb2.RunBatchRequest, context: grpc.ServicerContext
    ) -> worker_pb2.RunBatchResponse:
        """Raises `NotFoundError` for an adapter that is not loaded."""
        items: list[Item] = []
        for item in request.items:
            adapter = self.engine.adapter(item.adapter) if item.adapter else None
            normalize = item.normalize if item.HasField("normalize") else None
            items.append(Item(decode_item(item), adapter, normalize))
        future = self.device.submit(items, request.interactive)

        def cancel() -> None:
            future.cancel()

        context.add_callback(cancel)
        vectors, seconds = future.result()
        cuda = self.engine.device.type == "cuda"
        return worker_pb2.RunBatchResponse(
            vectors=vectors.tobytes(),
            inference_seconds=seconds,
            cache_hits=self.engine.cache.hits,
            cache_misses=self.engine.cache.misses,
            device_memory_bytes=torch.cuda.memory_reserved(self.engine.device) if cuda else 0,
            device_memory_total_bytes=(
                torch.cuda.get_device_properties(self.engine.device).total_memory if cuda else 0
            ),
        )

    def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, context: grpc.ServicerContext
    ) -> worker_pb2.LoadAdapterResponse:
        """Raises `AdapterError`."""
        with _folder(request) as folder:
            adapter = self.engine.load_adapter(request.name, folder, self.device.spread)
        log.info("adapter %s loaded, %d bytes", request.name, adapter.nbytes)
        return worker_pb2.LoadAdapterResponse(nbytes=adapter.nbytes)

    def UnloadAdapter(
        self, request: worker_pb2.UnloadAdapterRequest, context: grpc.ServicerContext
    ) -> worker_pb2.UnloadAdapterResponse:
        """Raises `NotFoundError`."""
        self.engine.unload_adapter(request.name)
        log.info("adapter %s unloaded", request.name)
        return worker_pb2.UnloadAdapterResponse()

    def GetStatus(
        self, request: worker_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> worker_pb2.GetStatusResponse:
        """What is loaded."""
        return worker_pb2.GetStatusResponse(
            base=str(self.base),
            dimension=self.engine.dim,
            token_budget=self.engine.token_budget,
            adapters=sorted(self.engine.adapters),
            device=str(self.engine.device),
        )


@contextlib.contextmanager
def _folder(request: worker_pb2.LoadAdapterRequest) -> Iterator[Path]:
    """The folder named, or one with the files that came along."""
    if not request.files:
        yield Path(request.folder)
        return
    with tempfile.TemporaryDirectory(prefix="vlm2vec-") as folder:
        for name in artifact.FILES:
            if name in request.files:
                (Path(folder) / name).write_bytes(request.files[name])
        yield Path(folder)


class Errors(grpc.ServerInterceptor):
    """Turns exceptions into statuses."""

    def intercept_service(self, continuation, details):  # type: ignore[no-untyped-def]
        handler = continuation(details)
        if handler is None or not handler.unary_unary:
            return handler

        def behave(request, context):  # type: ignore[no-untyped-def]
            try:
                return handler.unary_unary(request, context)
            except (ServeError, torch.OutOfMemoryError) as error:
                code = error.code if isinstance(error, ServeError) else Code.INVALID_ARGUMENT
                context.abort(grpc.StatusCode[code.name], str(error))
            except CancelledError:
                context.abort(grpc.StatusCode.CANCELLED, "nobody waits for this batch any more")
            except Exception as error:
                log.exception("%s failed", details.method)
                context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

        return grpc.unary_unary_rpc_method_handler(
            behave, handler.request_deserializer, handler.response_serializer
        )


def serve(base: Path, address: str, settings: EngineSettings) -> None:
    """Loads ``base`` and serves on ``address`` (``unix:PATH`` or ``HOST:PORT``) until SIGTERM, or
    until the parent that watches this process is gone."""
    # A thread settles for the last number that any thread has set when it first asks: before the pool.
    torch.set_num_threads(torch.get_num_threads())
    engine = Engine.load(base, settings)
    server = grpc.server(
        # The batches' team of threads has to stay the only one.
        ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)),
        interceptors=[*tracing.worker_interceptors(), Errors()],
        options=list(CHANNEL_OPTIONS),
    )
    worker = Worker(engine, base)
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    # For the probes of an orchestrator: who can ask finds the model loaded.
    healthy = health.HealthServicer()
    healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"worker: cannot listen on {address}") from error
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    server.start()
    log.info("%s on %s, dimension %d, serving on %s", base, engine.device, engine.dim, address)
    parent = os.getppid()
    finished: threading.Event | None = None

    def ended() -> bool:
        nonlocal finished
        # A front end that was killed cannot stop us: without it we are nobody's.
        orphan = address.startswith("unix:") and os.getppid() != parent
        if finished is None and (orphan or stop.is_set()):
            finished = server.stop(grace=5)
        return finished is not None and finished.is_set()

    worker.device.run_until(ended)
