"""The worker process: loads a base model and serves until SIGTERM."""

import logging
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import torch
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from vlm2vec.worker.v1 import worker_pb2_grpc
from vlm2vec_registry.space import base_digest
from vlm2vec_service import tracing
from vlm2vec_service.allocator import trim_regularly
from vlm2vec_service.engine import Engine
from vlm2vec_service.errors import StartError
from vlm2vec_service.settings import EngineSettings
from vlm2vec_service.worker.codec import CHANNEL_OPTIONS
from vlm2vec_service.worker.servicer import ErrorInterceptor, WorkerServicer

log = logging.getLogger(__name__)

THREADS = 8
"""Calls at once: two or three batches, and loading, unloading and status beside them."""


def serve(base: Path, address: str, settings: EngineSettings) -> None:
    """Loads ``base`` and serves on ``address`` (``unix:PATH`` or ``HOST:PORT``) until SIGTERM."""
    trim_regularly()
    # Before the pool: a thread settles for the last number that any thread has set when it first
    # asks.
    torch.set_num_threads(torch.get_num_threads())
    # Beside the loading, which waits for the disk and the device.
    digest = ThreadPoolExecutor(1, "digest").submit(base_digest, base)
    engine = Engine.load(base, settings)
    server = grpc.server(
        # The batches' team of threads has to stay the only one.
        ThreadPoolExecutor(THREADS, initializer=torch.set_num_threads, initargs=(1,)),
        interceptors=[*tracing.worker_interceptors(), ErrorInterceptor()],
        options=list(CHANNEL_OPTIONS),
    )
    worker = WorkerServicer(engine, base, digest)
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
    finished: threading.Event | None = None

    def ended() -> bool:
        nonlocal finished
        if finished is None and stop.is_set():
            finished = server.stop(grace=5)
        return finished is not None and finished.is_set()

    worker.device.run_until(ended)
