"""`AdapterService` over gRPC: the versions given at start, and what the workers hold of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from vlm2vec.v1 import adapters_pb2 as pb
from vlm2vec.v1 import adapters_pb2_grpc
from vlm2vec_service.catalog import Version
from vlm2vec_service.errors import AdapterError, InvalidInputError
from vlm2vec_service.frontend.service import Served, Service

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
WATCH_SECONDS = 0.5
"""Between looks at the workers, for those who watch."""


class AdapterServicer(adapters_pb2_grpc.AdapterServiceServicer):
    """`AdapterService` on a `Service`."""

    def __init__(self, service: Service) -> None:
        self.service = service

    async def ListAdapters(
        self, request: pb.ListAdaptersRequest, context: Context
    ) -> pb.ListAdaptersResponse:
        """By model and version."""
        return pb.ListAdaptersResponse(adapters=self._all(request.model))

    async def DescribeAdapter(
        self, request: pb.DescribeAdapterRequest, context: Context
    ) -> pb.DescribeAdapterResponse:
        """One version."""
        return pb.DescribeAdapterResponse(adapter=_adapter(*self._find(request)))

    async def PreloadAdapter(
        self, request: pb.PreloadAdapterRequest, context: Context
    ) -> pb.PreloadAdapterResponse:
        """Loads into every worker. Raises `AdapterError` with the reason if one cannot."""
        served, version = self._find(request)
        assert version.folder is not None
        for worker in served.workers:
            try:
                await worker.load_adapter(version.name, version.folder)
            except grpc.aio.AioRpcError as error:
                raise AdapterError(f"version {version.name!r}: {error.details()}") from error
        return pb.PreloadAdapterResponse(adapter=_adapter(served, version))

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Takes it out of every worker. An aliased version is refused: it is in use."""
        served, version = self._find(request)
        if aliases := served.model.aliases_of(version.name):
            raise AdapterError(f"version {version.name!r} is in use as {', '.join(aliases)}")
        for worker in served.workers:
            try:
                await worker.unload_adapter(version.name)
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.NOT_FOUND:
                    raise AdapterError(f"version {version.name!r}: {error.details()}") from error
        return pb.UnloadAdapterResponse(adapter=_adapter(served, version))

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """Every version once, then each that changes, until the caller has enough."""
        known: dict[tuple[str, str], pb.Adapter] = {}
        while not self.service.draining.is_set():
            for adapter in self._all(request.model):
                key = (adapter.model, adapter.version)
                if known.get(key) != adapter:
                    known[key] = adapter
                    yield pb.WatchAdaptersResponse(adapter=adapter)
            await asyncio.sleep(WATCH_SECONDS)

    def _all(self, model: str) -> list[pb.Adapter]:
        names = [self.service.catalog.model(model).name] if model else sorted(self.service.served)
        return [
            _adapter(self.service.served[name], version)
            for name in names
            for _, version in sorted(self.service.catalog.models[name].versions.items())
            if version.folder is not None
        ]

    def _find(
        self,
        request: pb.DescribeAdapterRequest | pb.PreloadAdapterRequest | pb.UnloadAdapterRequest,
    ) -> tuple[Served, Version]:
        if not request.version:
            raise InvalidInputError("version", "needed")
        model = self.service.catalog.model(request.model)
        version = model.version(version=request.version)
        if version.folder is None:
            raise InvalidInputError("version", f"{version.name!r} is the base, not an adapter")
        return self.service.served[model.name], version


def _adapter(served: Served, version: Version) -> pb.Adapter:
    reasons = [
        worker.failed_adapters[version.name]
        for worker in served.workers
        if version.name in worker.failed_adapters
    ]
    wanted = all(version.name in worker.wanted for worker in served.workers)
    if reasons:
        state = pb.ADAPTER_STATE_FAILED
    elif not wanted:
        state = pb.ADAPTER_STATE_AVAILABLE
    elif all(worker.ready for worker in served.workers):
        state = pb.ADAPTER_STATE_LOADED
    else:
        state = pb.ADAPTER_STATE_LOADING
    return pb.Adapter(
        model=served.model.name,
        version=version.name,
        space=version.space,
        aliases=served.model.aliases_of(version.name),
        state=state,
        reason=reasons[0] if reasons else "",
    )
