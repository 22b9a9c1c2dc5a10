"""`WorkerService`: what a front end can ask of a worker, and errors as gRPC statuses."""

import contextlib
import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import CancelledError, Future
from pathlib import Path
from typing import Any

import grpc
import torch

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_registry import artifact
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.packing import Item
from vlm2vec_service.errors import Code, ServeError
from vlm2vec_service.worker.codec import ARITHMETIC, decode_item
from vlm2vec_service.worker.device import DeviceQueue

log = logging.getLogger(__name__)

GIVEN_UP_SECONDS = 30.0
"""How long a batch may go on after the front end gave it up, before this process ends itself."""


class WorkerServicer(worker_pb2_grpc.WorkerServiceServicer):
    """`WorkerService` on one engine, whose device runs one batch at a time."""

    def __init__(self, engine: Engine, base: Path, base_digest: Future[bytes]) -> None:
        self.engine = engine
        self.base = base
        self.base_digest = base_digest
        self.device = DeviceQueue(engine)

    def RunBatch(
        self, request: worker_pb2.RunBatchRequest, context: grpc.ServicerContext
    ) -> worker_pb2.RunBatchResponse:
        """Runs a batch. Raises `NotFoundError` for an adapter that is not loaded."""
        items: list[Item] = []
        for item in request.items:
            adapter = self.engine.adapter(item.adapter) if item.adapter else None
            normalize = item.normalize if item.HasField("normalize") else None
            items.append(Item(decode_item(item), adapter, normalize))
        future = self.device.submit(items, request.interactive)
        context.add_callback(lambda: _give_up(future))
        ran = future.result()
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

    def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, context: grpc.ServicerContext
    ) -> worker_pb2.LoadAdapterResponse:
        """Loads an adapter from a folder, or from the files that came along. Raises
        `AdapterError`."""
        with _folder(request) as folder:
            adapter = self.engine.load_adapter(request.name, folder, self.device.spread)
        log.info("adapter %s loaded, %d bytes", request.name, adapter.nbytes)
        return worker_pb2.LoadAdapterResponse(nbytes=adapter.nbytes)

    def UnloadAdapter(
        self, request: worker_pb2.UnloadAdapterRequest, context: grpc.ServicerContext
    ) -> worker_pb2.UnloadAdapterResponse:
        """Forgets an adapter. Raises `NotFoundError`."""
        self.engine.unload_adapter(request.name)
        log.info("adapter %s unloaded", request.name)
        return worker_pb2.UnloadAdapterResponse()

    def GetStatus(
        self, request: worker_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> worker_pb2.GetStatusResponse:
        """Says what the worker is, and which adapters it holds and has merged."""
        return worker_pb2.GetStatusResponse(
            base=str(self.base),
            dimension=self.engine.dim,
            token_budget=self.engine.token_budget,
            adapters=sorted(self.engine.adapters),
            device=str(self.engine.device),
            base_digest=self.base_digest.result(),
            dtype=str(next(self.engine.backbone.parameters()).dtype).removeprefix("torch."),
            arithmetic=ARITHMETIC,
            merged_adapters=self.engine.merged.names,
            merged_bytes=self.engine.merged.nbytes,
            merged_budget_bytes=self.engine.merged.budget,
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


class ErrorInterceptor(grpc.ServerInterceptor):
    """Turns exceptions into gRPC statuses."""

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
