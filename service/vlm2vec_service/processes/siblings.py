"""The other members: what callers ask of one of them, and concerns all, is told to the others."""

import asyncio
import logging
from pathlib import Path

import grpc

from vlm2vec.v1 import adapters_pb2 as pb
from vlm2vec.v1 import adapters_pb2_grpc

log = logging.getLogger(__name__)

SECONDS = 120.0
"""How long another member may take to load an adapter, which the workers have by then."""


class Siblings:
    """The members that answer at ``paths``."""

    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths

    async def preload(self, model: str, version: str) -> None:
        """Has every other member hold an adapter."""
        request = pb.PreloadAdapterRequest(model=model, version=version)
        await asyncio.gather(*(self._tell(path, "PreloadAdapter", request) for path in self._paths))

    async def unload(self, model: str, version: str) -> None:
        """Has every other member let an adapter go."""
        request = pb.UnloadAdapterRequest(model=model, version=version)
        await asyncio.gather(*(self._tell(path, "UnloadAdapter", request) for path in self._paths))

    async def _tell(
        self, path: Path, method: str, request: pb.PreloadAdapterRequest | pb.UnloadAdapterRequest
    ) -> None:
        async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
            stub = adapters_pb2_grpc.AdapterServiceStub(channel)
            try:
                await getattr(stub, method)(request, timeout=SECONDS)
            except grpc.aio.AioRpcError as error:
                # One that starts anew begins with what its settings and the registry say.
                log.warning("%s: %s: %s", path.stem, method, error.details())
