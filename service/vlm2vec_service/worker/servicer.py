"""`WorkerService`: what a front end can ask of a worker, and errors as gRPC statuses."""

import asyncio
import contextlib
import functools
import logging
import os
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import torch

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_registry import artifact
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.errors import Code, ServeError
from vlm2vec_service.worker.codec import ARITHMETIC, decode_batch
from vlm2vec_service.worker.device import DeviceQueue, Ran
from vlm2vec_service.worker.holders import Holders

log = logging.getLogger(__name__)

GIVEN_UP_SECONDS = 30.0
"""How long a batch may go on after the front end gave it up, before this process ends itself."""


Context = grpc.aio.ServicerContext[Any, Any]
Handler = Callable[[Any, Any, Context], Coroutine[Any, Any, Any]]


def our_errors(handler: Handler) -> Handler:
    """Makes ``handler`` answer what it raises as gRPC statuses."""

    @functools.wraps(handler)
    async def answer(servicer: Any, request: Any, context: Context) -> Any:
        try:
            return await handler(servicer, request, context)
        except (ServeError, torch.OutOfMemoryError) as error:
            code = error.code if isinstance(error, ServeError) else Code.INVALID_ARGUMENT
            await context.abort(grpc.StatusCode[code.name], str(error))
        except Exception as error:
            log.exception("%s failed", handler.__name__)
            await context.abort(grpc.StatusCode.INTERNAL, f"{type(error).__name__}: {error}")

    return answer


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """`WorkerService` on one engine, whose device runs one batch at a time.

    On an event loop: a batch that waits costs no thread, and a probe is answered beside any number
    of them. What takes long runs in ``threads``.
    """

    def __init__(
        self, engine: Engine, base: Path, base_digest: Future[bytes], threads: ThreadPoolExecutor
    ) -> None:
        self.engine = engine
        self.base = base
        self.base_digest = base_digest
        self.device = DeviceQueue(engine)
        self.holders = Holders()
        self._threads = threads
        self._loading: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @our_errors
    async def RunBatch(
        self, request: worker_pb2.RunBatchRequest, context: Context
    ) -> worker_pb2.RunBatchResponse:
        """Runs a batch. The initial metadata is sent when the device begins with it. Raises
        `NotFoundError` for an adapter that is not loaded, and what `decode_batch` does."""
        items: list[Item] = []
        for item, prepared in zip(request.items, decode_batch(request), strict=True):
            adapter = self.engine.adapter(item.adapter) if item.adapter else None
            normalize = item.normalize if item.HasField("normalize") else None
            items.append(Item(prepared, adapter, normalize))
        loop, begun = asyncio.get_running_loop(), asyncio.Event()
        future = self.device.submit(
            items, request.interactive, request.caller_tokens,
            lambda: loop.call_soon_threadsafe(begun.set),
        )  # fmt: skip
        try:
            await begun.wait()
            await context.send_initial_metadata(())
            return self._response(await asyncio.wrap_future(future))
        except asyncio.CancelledError:
            _give_up(future)
            raise

    def _response(self, ran: Ran) -> worker_pb2.RunBatchResponse:
        cuda = self.engine.device.type == "cuda"
        return worker_pb2.RunBatchResponse(
            vectors=ran.vectors.tobytes(),
            inference_seconds=ran.seconds,
            cache_hits=self.engine.cache.hits,
            cache_misses=self.engine.cache.misses,
            device_memory_bytes=torch.cuda.memory_reserved(self.engine.device) if cuda else 0,
            device_memory_total_bytes=(
                torch.cuda.get_device_properties(self.engine.device).total_memory if cuda else 0
            ),
            merged_adapters=len(self.engine.merged.names),
            merged_bytes=self.engine.merged.nbytes,
            base_tokens=ran.path_tokens.get("base", 0),
            low_rank_tokens=ran.path_tokens.get("low_rank", 0),
            merged_tokens=ran.path_tokens.get("merged", 0),
        )

    @our_errors
    async def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, context: Context
    ) -> worker_pb2.LoadAdapterResponse:
        """Loads an adapter from a folder, or from the files that came along. Raises
        `AdapterError`."""
        name, holder = request.name, request.holder
        for lapsed in self.holders.lapsed():
            self._unload(lapsed)
        async with self._loading[name]:
            if not (self.holders.held_by_others(name, holder) and name in self.engine.adapters):
                await asyncio.get_running_loop().run_in_executor(self._threads, self._load, request)
            self.holders.hold(name, holder)
        return worker_pb2.LoadAdapterResponse(nbytes=self.engine.adapter(name).nbytes)

    def _load(self, request: worker_pb2.LoadAdapterRequest) -> None:
        with _folder(request) as folder:
            adapter = self.engine.load_adapter(request.name, folder, self.device.spread)
        log.info("adapter %s loaded, %d bytes", request.name, adapter.nbytes)

    @our_errors
    async def UnloadAdapter(
        self, request: worker_pb2.UnloadAdapterRequest, context: Context
    ) -> worker_pb2.UnloadAdapterResponse:
        """Forgets an adapter, unless another front end wants it. Raises `NotFoundError`."""
        if self.holders.let_go(request.name, request.holder):
            self._unload(request.name)
        return worker_pb2.UnloadAdapterResponse()

    def _unload(self, name: str) -> None:
        self.engine.unload_adapter(name)
        log.info("adapter %s unloaded", name)

    @our_errors
    async def GetStatus(
        self, request: worker_pb2.GetStatusRequest, context: Context
    ) -> worker_pb2.GetStatusResponse:
        """Says what the worker is, and which adapters it holds and has merged."""
        self.holders.heard(request.holder)
        return worker_pb2.GetStatusResponse(
            base=str(self.base),
            dimension=self.engine.dim,
            token_budget=self.engine.token_budget,
            adapters=sorted(self.engine.adapters),
            device=str(self.engine.device),
            base_digest=await asyncio.wrap_future(self.base_digest),
            dtype=str(next(self.engine.backbone.parameters()).dtype).removeprefix("torch."),
            arithmetic=ARITHMETIC,
            merged_adapters=self.engine.merged.names,
            merged_bytes=self.engine.merged.nbytes,
            merged_budget_bytes=self.engine.merged.budget,
            maps_files=True,
        )


def _give_up(future: Future[Any]) -> None:
    """Nobody waits for a batch any more: it does not begin, and if it runs it has to end. Nothing
    but the end of the process ends what hangs, and a front end on another host cannot kill it."""
    if future.cancel() or future.done():
        return

    def end() -> None:
        if not future.done():
            log.critical("a batch hangs: this worker ends")
            os._exit(1)

    timer = threading.Timer(GIVEN_UP_SECONDS, end)
    timer.daemon = True
    timer.start()


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
