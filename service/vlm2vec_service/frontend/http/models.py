"""The routes that say what is served and whether it is well: ``/v1/models``, ``/healthz``,
``/readyz``."""

from fastapi import APIRouter, Response

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import NotFoundError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.http.bodies import ModelList, ModelObject, ServedVersion, Status
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.pipeline import Pipeline


def routes(pipeline: Pipeline) -> APIRouter:
    """Makes the router of ``/v1/models`` and of the health checks."""
    router = APIRouter(tags=["models"])

    @router.get("/v1/models", responses=RESPONSES)
    async def list_models() -> ModelList:
        """List the models that the caller may use, with their versions."""
        models = calls.list_models(pipeline, caller_of(pipeline)).models
        return ModelList(object="list", data=[_model(model) for model in models])

    @router.get("/v1/models/{model}", responses=RESPONSES)
    async def retrieve_model(model: str) -> ModelObject:
        """Describe one model."""
        caller = caller_of(pipeline)
        caller.identity.check_model(model)
        for known in calls.list_models(pipeline, caller).models:
            if known.name == model:
                return _model(known)
        raise NotFoundError(f"model {model!r} is not served")

    @router.get("/healthz", tags=["health"])
    async def healthz() -> Status:
        """Whether the process is alive; it is if this answers."""
        return Status(status="alive")

    @router.get("/readyz", tags=["health"], responses={503: {"model": Status}})
    async def readyz(response: Response) -> Status:
        """Whether every model has a worker with its base and adapters."""
        response.status_code = 200 if pipeline.ready else 503
        return Status(status="ready" if pipeline.ready else "not ready")

    return router


def _model(model: pb.Model) -> ModelObject:
    return ModelObject(
        id=model.name,
        object="model",
        created=0,
        owned_by="vlm2vec",
        backbone=model.backbone,
        dimension=model.dimension,
        ready=model.ready,
        reason=model.reason,
        versions=[
            ServedVersion(version=item.version, space=item.space, aliases=list(item.aliases))
            for item in model.versions
        ],
    )
