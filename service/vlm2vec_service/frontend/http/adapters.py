"""``/v1/adapters``: `AdapterService` over HTTP, without its stream of changes."""

from typing import Literal, get_args

from fastapi import APIRouter
from pydantic import BaseModel, Field

from vlm2vec.v1 import adapters_pb2 as pb
from vlm2vec_service.frontend import adapters
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fields import Body
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.pipeline import Pipeline

State = Literal["unspecified", "available", "loading", "loaded", "failed"]
"""The states of gRPC's `AdapterState`, in its order."""


class AdapterBody(Body):
    """A request to preload or unload one adapter."""

    model: str = Field(default="", description="A server with one model needs none.")
    version: str


class AdapterObject(BaseModel):
    """One adapter; ``reason`` says why it failed, or which worker could not load it."""

    object: Literal["adapter"] = "adapter"
    model: str
    version: str
    space: str
    aliases: list[str]
    state: State
    reason: str


class AdapterList(BaseModel):
    """The adapters that the caller may use."""

    object: Literal["list"] = "list"
    data: list[AdapterObject]


def routes(pipeline: Pipeline) -> APIRouter:
    """Makes the router of ``/v1/adapters``."""
    router = APIRouter(tags=["adapters"], route_class=BodyRoute)

    @router.get("/v1/adapters", responses=RESPONSES)
    async def list_adapters(model: str = "") -> AdapterList:
        """List the adapters of one model or of all, with their states."""
        return AdapterList(data=list(map(_shown, adapters.list_adapters(pipeline, model))))

    @router.get("/v1/adapters/{model}/{version}", responses=RESPONSES)
    async def describe_adapter(model: str, version: str) -> AdapterObject:
        """Describe one adapter."""
        return _shown(adapters.describe(pipeline, model, version))

    @router.post("/v1/adapters/preload", responses=RESPONSES)
    async def preload_adapter(body: AdapterBody) -> AdapterObject:
        """Load an adapter into every worker, ahead of the first request for it."""
        return _shown(await adapters.preload(pipeline, body.model, body.version))

    @router.post("/v1/adapters/unload", responses=RESPONSES)
    async def unload_adapter(body: AdapterBody) -> AdapterObject:
        """Take an adapter without an alias out of every worker; requests under way finish."""
        return _shown(await adapters.unload(pipeline, body.model, body.version))

    return router


def _shown(adapter: pb.Adapter) -> AdapterObject:
    return AdapterObject(
        model=adapter.model,
        version=adapter.version,
        space=adapter.space,
        aliases=list(adapter.aliases),
        state=get_args(State)[adapter.state],
        reason=adapter.reason,
    )
