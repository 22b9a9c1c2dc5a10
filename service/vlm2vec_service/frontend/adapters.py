"""The calls of `AdapterService`, whatever protocol they came by: the versions of each model, and
what the workers hold of them."""

from vlm2vec.v1 import adapters_pb2 as pb
from vlm2vec_service.errors import AdapterError, ForbiddenError, InvalidInputError
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.versions.catalog import Version
from vlm2vec_service.versions.residency import State

STATES = {
    State.AVAILABLE: pb.ADAPTER_STATE_AVAILABLE,
    State.FETCHING: pb.ADAPTER_STATE_LOADING,
    State.LOADING: pb.ADAPTER_STATE_LOADING,
    State.HELD: pb.ADAPTER_STATE_LOADED,
    State.FAILED: pb.ADAPTER_STATE_FAILED,
}


def list_adapters(pipeline: Pipeline, model: str) -> list[pb.Adapter]:
    """Lists the adapters of ``model``, or without a name all that the caller may use, by model and
    version. Raises `NotFoundError`."""
    names = [pipeline.catalog.model(model).name] if model else sorted(pipeline.served)
    return [
        _adapter(pipeline.served[name], version)
        for name in names
        if current.get().identity.may_use(name)
        for _, version in sorted(pipeline.catalog.models[name].versions.items())
        if not version.is_base
    ]


def describe(pipeline: Pipeline, model: str, version: str) -> pb.Adapter:
    """Describes one adapter. Raises `NotFoundError`, `ForbiddenError` for a model that is not the
    caller's, and `InvalidInputError` for what is no adapter."""
    return _adapter(*_find(pipeline, model, version))


async def preload(
    pipeline: Pipeline, model: str, version: str, everywhere: bool = True
) -> pb.Adapter:
    """Loads an adapter into every worker, and has every front-end process hold it, or with
    ``everywhere`` off only this one. Raises what `describe` raises, `ForbiddenError` where
    adapters are read-only, and `AdapterError` with the reason if a worker cannot."""
    _check_writable(pipeline)
    served, found = _find(pipeline, model, version)
    await served.loader.ensure(found)
    if pipeline.siblings is not None and everywhere:
        await pipeline.siblings.preload(served.model.name, found.name)
    return _adapter(served, found)


async def unload(
    pipeline: Pipeline, model: str, version: str, everywhere: bool = True
) -> pb.Adapter:
    """Takes an adapter out of every worker, until a request names it, or with ``everywhere`` off
    has only this front-end process let it go. Raises what `preload` raises;
    one with traffic is refused."""
    _check_writable(pipeline)
    served, found = _find(pipeline, model, version)
    if aliases := served.model.aliases_of(found):
        raise AdapterError(f"version {found.name!r} is in use as {', '.join(aliases)}")
    await served.loader.unload(found)
    if pipeline.siblings is not None and everywhere:
        await pipeline.siblings.unload(served.model.name, found.name)
    return _adapter(served, found)


def _check_writable(pipeline: Pipeline) -> None:
    if pipeline.read_only:
        raise ForbiddenError("the adapters are read-only here: the registry decides")


def _find(pipeline: Pipeline, model: str, version: str) -> tuple[Served, Version]:
    if not version:
        raise InvalidInputError("version", "needed")
    known = pipeline.catalog.model(model)
    current.get().identity.check_model(known.name)
    found = known.choose(version=version)
    if found.is_base:
        raise InvalidInputError("version", f"{found.name!r} is the base, not an adapter")
    return pipeline.served[known.name], found


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
