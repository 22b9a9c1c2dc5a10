"""`grpc.health.v1.Health`: readiness of the services and of each model, liveness of the process."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, TypeAlias

import grpc
from grpc_health.v1 import health_pb2 as pb
from grpc_health.v1 import health_pb2_grpc

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
LIVENESS = "liveness"
"""Health of the process, whatever its workers do; "" and the services' names are readiness: of any
model."""
EVERY_MODEL = "model/*"
STARTUP = "startup"
"""Whether no model is starting any more, be it ready or known not to get so."""


class HealthServicer(health_pb2_grpc.HealthServicer):
    """gRPC's own forgets those who still watch when one stops, and holds up a shutdown."""

    def __init__(self, services: Iterable[str], models: Iterable[str]) -> None:
        self._services = {"", *services}
        self._ready = dict.fromkeys(models, False)
        self._started = False
        self._closed = False
        self._changed = asyncio.Event()

    def set(self, ready: Mapping[str, bool], started: bool) -> None:
        """Says of each model whether it can be embedded with now, and whether none is starting."""
        if (ready, started) != (self._ready, self._started) and not self._closed:
            self._ready, self._started = dict(ready), started
            self._tell()

    def close(self) -> None:
        """Not ready for good; who watches is told and sent away."""
        self._ready, self._closed = dict.fromkeys(self._ready, False), True
        self._started = False
        self._tell()

    async def Check(self, request: pb.HealthCheckRequest, context: Context) -> Any:
        """The status of a service; NOT_FOUND for an unknown one."""
        status = self._status(request.service)
        if status == pb.HealthCheckResponse.SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"no service {request.service!r}")
        return pb.HealthCheckResponse(status=status)

    async def Watch(self, request: pb.HealthCheckRequest, context: Context) -> AsyncIterator[Any]:
        """The status of a service, and again whenever it changes."""
        known = None
        while True:
            changed = self._changed
            status = self._status(request.service)
            if status != known:
                known = status
                yield pb.HealthCheckResponse(status=status)
                continue  # it may have changed while that was sent
            if self._closed:
                return
            await changed.wait()

    def _status(self, service: str) -> Any:
        if service == LIVENESS:
            ready = True
        elif service == STARTUP:
            ready = self._started
        elif service in self._services:
            ready = any(self._ready.values())
        elif service == EVERY_MODEL:
            ready = all(self._ready.values())
        elif (model := service.removeprefix("model/")) != service and model in self._ready:
            ready = self._ready[model]
        else:
            return pb.HealthCheckResponse.SERVICE_UNKNOWN
        return pb.HealthCheckResponse.SERVING if ready else pb.HealthCheckResponse.NOT_SERVING

    def _tell(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()
