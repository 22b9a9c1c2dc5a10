"""`AdapterService` over gRPC."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeAlias

import grpc

from vlm2vec.v1 import adapters_pb2 as pb
from vlm2vec.v1 import adapters_pb2_grpc
from vlm2vec_service.errors import ServeError
from vlm2vec_service.frontend import adapters
from vlm2vec_service.frontend.access import Call, current
from vlm2vec_service.frontend.pipeline import Pipeline

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
        found = adapters.list_adapters(self.pipeline, request.model)
        return pb.ListAdaptersResponse(adapters=found)

    async def DescribeAdapter(
        self, request: pb.DescribeAdapterRequest, context: Context
    ) -> pb.DescribeAdapterResponse:
        """One version."""
        found = adapters.describe(self.pipeline, request.model, request.version)
        return pb.DescribeAdapterResponse(adapter=found)

    async def PreloadAdapter(
        self, request: pb.PreloadAdapterRequest, context: Context
    ) -> pb.PreloadAdapterResponse:
        """Loads into every worker."""
        loaded = await adapters.preload(self.pipeline, request.model, request.version)
        return pb.PreloadAdapterResponse(adapter=loaded)

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Takes it out of every worker."""
        unloaded = await adapters.unload(self.pipeline, request.model, request.version)
        return pb.UnloadAdapterResponse(adapter=unloaded)

    async def WatchAdapters(
        self, request: pb.WatchAdaptersRequest, context: Context
    ) -> AsyncIterator[pb.WatchAdaptersResponse]:
        """Every version once, then each that changes, until the caller has enough."""
        known: dict[tuple[str, str], pb.Adapter] = {}
        while not self.pipeline.draining.is_set():
            current.get().recheck()
            for adapter in adapters.list_adapters(self.pipeline, request.model):
                key = (adapter.model, adapter.version)
                if known.get(key) != adapter:
                    known[key] = adapter
                    yield pb.WatchAdaptersResponse(adapter=adapter)
            await asyncio.sleep(WATCH_SECONDS)


class SiblingServicer(AdapterServicer):
    """What one front-end process asks of another, which does it for itself alone."""

    async def PreloadAdapter(
        self, request: pb.PreloadAdapterRequest, context: Context
    ) -> pb.PreloadAdapterResponse:
        """Holds it."""
        return pb.PreloadAdapterResponse(
            adapter=await _alone(
                adapters.preload(self.pipeline, request.model, request.version, everywhere=False),
                "PreloadAdapter",
                context,
            )
        )

    async def UnloadAdapter(
        self, request: pb.UnloadAdapterRequest, context: Context
    ) -> pb.UnloadAdapterResponse:
        """Lets it go."""
        return pb.UnloadAdapterResponse(
            adapter=await _alone(
                adapters.unload(self.pipeline, request.model, request.version, everywhere=False),
                "UnloadAdapter",
                context,
            )
        )


async def _alone(
    doing: Coroutine[Any, Any, pb.Adapter], method: str, context: Context
) -> pb.Adapter:
    """Answers another process's call: of nobody in particular, and with our errors as statuses."""
    current.set(Call(method, context.peer(), ""))
    try:
        return await doing
    except ServeError as error:
        await context.abort(grpc.StatusCode[error.code.name], str(error))
