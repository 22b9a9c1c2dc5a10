"""``/v1/models``: what is served."""

from fastapi import APIRouter

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.backbones.table import FAMILIES
from vlm2vec_service.errors import NotFoundError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.http.bodies import ModelList, ModelObject, ServedVersion
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.pipeline import Pipeline


def routes(pipeline: Pipeline) -> APIRouter:
    """Makes the router of ``/v1/models``."""
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

    return router


def media_taken(backbone: str) -> list[str]:
    """The kinds of media that models of a ``backbone`` take beside text."""
    return list(FAMILIES[backbone].preprocessor_class().takes)


def _model(model: pb.Model) -> ModelObject:
    return ModelObject(
        id=model.name,
        object="model",
        created=0,
        owned_by="vlm2vec",
        backbone=model.backbone,
        takes=media_taken(model.backbone),
        dimension=model.dimension,
        ready=model.ready,
        reason=model.reason,
        canary_share=model.canary_share,
        versions=[
            ServedVersion(version=item.version, space=item.space, aliases=list(item.aliases))
            for item in model.versions
        ],
    )
