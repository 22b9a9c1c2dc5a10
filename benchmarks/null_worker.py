"""A worker that answers at once: what a front end does without one to wait for.

    python -m benchmarks.null_worker --base DIR --address unix:PATH

It speaks `WorkerService`, says that it runs the base in DIR, holds whatever adapter it is told to,
and gives every input the same vector of 1536 components.
"""

from __future__ import annotations

import argparse
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import numpy as np

from vlm2vec.worker.v1 import worker_pb2, worker_pb2_grpc
from vlm2vec_registry.space import base_digest
from vlm2vec_service.worker.codec import ARITHMETIC, CHANNEL_OPTIONS

DIMENSION = 1536
TOKEN_BUDGET = 16_384


class NullWorker(worker_pb2_grpc.WorkerServiceServicer):
    """`WorkerService` without an engine."""

    def __init__(self, base: Path) -> None:
        self.digest = base_digest(base)
        self.vector = np.full(DIMENSION, DIMENSION**-0.5, np.float32).tobytes()
        self.adapters: set[str] = set()

    def RunBatch(
        self, request: worker_pb2.RunBatchRequest, context: grpc.ServicerContext
    ) -> worker_pb2.RunBatchResponse:
        """Gives every input the one vector."""
        return worker_pb2.RunBatchResponse(vectors=self.vector * len(request.items))

    def LoadAdapter(
        self, request: worker_pb2.LoadAdapterRequest, context: grpc.ServicerContext
    ) -> worker_pb2.LoadAdapterResponse:
        """Notes the adapter's name."""
        self.adapters.add(request.name)
        return worker_pb2.LoadAdapterResponse()

    def UnloadAdapter(
        self, request: worker_pb2.UnloadAdapterRequest, context: grpc.ServicerContext
    ) -> worker_pb2.UnloadAdapterResponse:
        """Forgets the adapter's name."""
        self.adapters.discard(request.name)
        return worker_pb2.UnloadAdapterResponse()

    def GetStatus(
        self, request: worker_pb2.GetStatusRequest, context: grpc.ServicerContext
    ) -> worker_pb2.GetStatusResponse:
        """Says what a worker on the same base would."""
        return worker_pb2.GetStatusResponse(
            dimension=DIMENSION,
            token_budget=TOKEN_BUDGET,
            adapters=sorted(self.adapters),
            device="none",
            base_digest=self.digest,
            dtype="float32",
            arithmetic=ARITHMETIC,
            maps_files=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--base", type=Path, required=True, help="the front end's checkpoint")
    parser.add_argument("--address", required=True, help="unix:PATH or HOST:PORT")
    args = parser.parse_args()
    server = grpc.server(ThreadPoolExecutor(4), options=list(CHANNEL_OPTIONS))
    worker_pb2_grpc.add_WorkerServiceServicer_to_server(NullWorker(args.base), server)
    server.add_insecure_port(args.address)
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
