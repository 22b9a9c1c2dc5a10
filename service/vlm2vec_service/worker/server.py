"""The worker process: loads a base model and serves until SIGTERM."""

import asyncio
import logging
import signal
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vlm2vec.worker.v1 import worker_pb2_grpc
from vlm2vec_registry.space import base_digest
from vlm2vec_service import tracing
from vlm2vec_service.addresses import check_free
from vlm2vec_service.allocator import keep_blocks, trim_regularly
from vlm2vec_service.engine import Engine
from vlm2vec_service.engine.engine import find_device
from vlm2vec_service.engine.threads import use_threads
from vlm2vec_service.errors import StartError
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS
from vlm2vec_service.worker.servicer import WorkerServicer

log = logging.getLogger(__name__)

THREADS = 4
"""Adapters that are read at once."""
STOP_SECONDS = 5.0
"""What calls are given to end in when the worker is told to stop."""


def serve(base: Path, address: str, settings: EngineSettings) -> None:
    """Loads ``base`` and serves on ``address`` (``unix:PATH`` or ``HOST:PORT``) until SIGTERM.

    Raises `CheckpointError` for a device that this machine does not have, and `StartError` for an
    address that cannot be had."""
    keep_blocks()
    trim_regularly()
    # Before what takes minutes.
    find_device(settings.device)
    check_free({"address": address})
    # Before the pool: a thread settles for the last number that any thread has set when it first
    # asks.
    use_threads(settings.threads)
    # Beside the loading, which waits for the disk and the device.
    digest = ThreadPoolExecutor(1, "digest").submit(base_digest, base)
    serve_engine(Engine.load(base, settings), base, digest, address)


def serve_engine(engine: Engine, base: Path, digest: Future[bytes], address: str) -> None:
    """Serves ``engine``, which this thread has loaded and which runs ``base``, until SIGTERM."""
    # The batches' team of threads has to stay the only one.
    threads = ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,))
    worker = WorkerServicer(engine, base, digest, threads)
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    signal.signal(signal.SIGINT, lambda *_: stop.set())
    # This thread loaded the engine and stays its own; calls are answered in another.
    answering = ThreadPoolExecutor(1, "calls").submit(asyncio.run, _answer(worker, address, stop))
    worker.device.run_until(answering.done)
    answering.result()


async def _answer(worker: WorkerServicer, address: str, stop: threading.Event) -> None:
    """Answers calls on ``address`` until ``stop`` is set, and then those that are under way. Raises
    `StartError` for an address that cannot be had."""
    server = grpc.aio.server(
        interceptors=tracing.worker_interceptors(), options=list(CHANNEL_OPTIONS)
    )
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(worker, server)
    # For the probes of an orchestrator: who can ask finds the model loaded.
    healthy = health.aio.HealthServicer()
    await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    try:
        server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartError(f"worker: cannot listen on {address}") from error
    await server.start()
    engine = worker.engine
    log.info(
        "%s on %s, dimension %d, serving on %s", worker.base, engine.device, engine.dim, address
    )
    while not stop.is_set():
        await asyncio.sleep(0.1)
    await server.stop(STOP_SECONDS)
