"""What probes and Prometheus ask on the HTTP port: ``/healthz``, ``/readyz``, ``/health``,
``/startupz``, ``/metrics``."""

import asyncio

from fastapi import APIRouter, Response

from vlm2vec_service.errors import NotFoundError, listed
from vlm2vec_service.frontend.http.bodies import Status
from vlm2vec_service.frontend.http.errors import RESPONSES, Responses
from vlm2vec_service.frontend.metrics_server import CONTENT_TYPE, exposition
from vlm2vec_service.frontend.pipeline import Pipeline


def routes(pipeline: Pipeline) -> APIRouter:
    """Makes the router of the health checks and of the metrics."""
    router = APIRouter(tags=["health"])
    one_at_a_time = asyncio.Lock()  # so that no flood of scrapes takes the threads of others

    @router.get("/healthz")
    async def healthz() -> Status:
        """Whether the process is alive; it is if this answers."""
        return Status(status="alive")

    asked_by_model: Responses = {404: RESPONSES[404], 503: {"model": Status}}

    @router.get("/health", responses=asked_by_model)
    @router.get("/readyz", responses=asked_by_model)
    async def readyz(response: Response, model: str = "") -> Status:
        """Whether a worker answers for any model, for the one that ``model`` names, or with * for
        every one of them."""
        ready = pipeline.ready
        if model not in {"", "*", *ready}:
            raise NotFoundError(f"model {model!r} is not served; there are {listed(ready)}")
        asked = [ready[model]] if model in ready else list(ready.values())
        found = any(asked) if model != "*" else all(asked)
        response.status_code = 200 if found else 503
        return Status(status="ready" if found else "not ready")

    @router.get("/startupz", responses={503: {"model": Status}})
    async def startupz(response: Response) -> Status:
        """Whether no model is starting any more: each is ready, or is known not to get so."""
        response.status_code = 200 if pipeline.started else 503
        return Status(status="started" if pipeline.started else "starting")

    @router.get(
        "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
    )
    async def metrics() -> Response:
        """Every metric, as Prometheus reads it."""
        async with one_at_a_time:
            return Response(await asyncio.to_thread(exposition), media_type=CONTENT_TYPE)

    return router
