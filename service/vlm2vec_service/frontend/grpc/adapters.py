"""`AdapterService` over gRPC: the versions of each model, and what the workers hold of them."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, TypeAlias

import grpc

from vlm2vec.v1 import adapters_pb2 as pb
from vlm2vec.v1 import adapters_pb2_grpc
from vlm2vec_service.errors import AdapterError, ForbiddenError, InvalidInputError
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.versions.catalog import Version
from vlm2vec_service.versions.residency import State

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
WATCH_SECONDS = 0.5
"""Between looks at the workers, for those who watch."""


class AdapterServicer(adapters_pb2_grpc.AdapterServiceServicer):
    """`AdapterService` on a `Pipeline`."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.pipeline = pipeline

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
        self._check_writable()
        served, version = self._find(request)
        await served.loader.ensure(version)
        return pb.PreloadAdapterResponse(adapter=_adapter(served, version))

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Takes it out of every worker, until a request names it. One with traffic is refused."""
        self._check_writable()
        served, version = self._find(request)
        if aliases := served.model.aliases_of(version):
            raise AdapterError(f"version {version.name!r} is in use as {', '.join(aliases)}")
        await served.loader.unload(version)
        return pb.UnloadAdapterResponse(adapter=_adapter(served, version))

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """Every version once, then each that changes, until the caller has enough."""
        known: dict[tuple[str, str], pb.Adapter] = {}
        while not self.pipeline.draining.is_set():
            current.get().recheck()
            for adapter in self._all(request.model):
                key = (adapter.model, adapter.version)
                if known.get(key) != adapter:
                    known[key] = adapter
                    yield pb.WatchAdaptersResponse(adapter=adapter)
            await asyncio.sleep(WATCH_SECONDS)

    def _check_writable(self) -> None:
        if self.pipeline.read_only:
            raise ForbiddenError("the adapters are read-only here: the registry decides")

    def _all(self, model: str) -> list[pb.Adapter]:
        names = [self.pipeline.catalog.model(model).name] if model else sorted(self.pipeline.served)
        return [
            _adapter(self.pipeline.served[name], version)
            for name in names
            if current.get().identity.may_use(name)
            for _, version in sorted(self.pipeline.catalog.models[name].versions.items())
            if not version.is_base
        ]

    def _find(
        self,
        request: pb.DescribeAdapterRequest | pb.PreloadAdapterRequest | pb.UnloadAdapterRequest,
    ) -> tuple[Served, Version]:
        if not request.version:
            raise InvalidInputError("version", "needed")
        model = self.pipeline.catalog.model(request.model)
        current.get().identity.check_model(model.name)
        version = model.choose(version=request.version)
        if version.is_base:
            raise InvalidInputError("version", f"{version.name!r} is the base, not an adapter")
        return self.pipeline.served[model.name], version


STATES = {
    State.AVAILABLE: pb.ADAPTER_STATE_AVAILABLE,
    State.FETCHING: pb.ADAPTER_STATE_LOADING,
    State.LOADING: pb.ADAPTER_STATE_LOADING,
    State.HELD: pb.ADAPTER_STATE_LOADED,
    State.FAILED: pb.ADAPTER_STATE_FAILED,
}


def _adapter(served: Served, version: Version) -> pb.Adapter:
    found = served.residency.state(version)
    return pb.Adapter(
        model=served.model.name,
        version=version.name,
        space=version.space,
        aliases=served.model.aliases_of(version),
        state=STATES[found.state],
        reason=found.reason,
    )
