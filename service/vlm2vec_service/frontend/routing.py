"""Which version of which model answers a request, and that a worker holds it."""

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import AdapterError, UnavailableError
from vlm2vec_service.frontend.limits import check_dimensions, check_options
from vlm2vec_service.frontend.model_ref import resolved
from vlm2vec_service.frontend.request import Caller, Deadline, Route
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.versions.catalog import Catalog, Version
from vlm2vec_service.versions.residency import State


@dataclass(frozen=True)
class Router:
    """Routes requests to the versions of ``catalog``, which ``served`` answers with, by model."""

    catalog: Catalog
    served: Mapping[str, Served]
    max_tokens: int
    metrics: Metrics

    async def route(self, options: pb.CallOptions, caller: Caller) -> Route:
        """Finds the model and version, and loads the version if it is not loaded.

        A call without a routing key is routed by its caller, who so never gets two spaces mixed
        while a canary has its share. Raises `ForbiddenError` for a model that is not the caller's,
        `NotFoundError`, `InvalidInputError`, `AdapterError` for a version that cannot be loaded,
        `DeadlineError`, and `UnavailableError` while starting.
        """
        check_options(options, self.max_tokens)
        ref = resolved(self.catalog, options.model)
        if ref.name:  # before anything is said about it
            caller.identity.check_model(ref.name)
        model = self.catalog.model(ref.name)
        caller.identity.check_model(model.name)
        caller.asks(model.name)
        served = self.served[model.name]
        dimension = served.dimension
        if not dimension:
            self.metrics.starting_refused.labels(model.name).inc()
            raise UnavailableError(f"model {model.name!r} is starting", retry_after=2.0)
        key = options.routing_key or caller.routing_key
        if ref.space:
            version = await self._in_space(served, ref.space, caller)
        else:
            version = model.choose(ref.alias, ref.version, "", key)
            await self._loaded(served, version, caller)
        check_dimensions(options.output, dimension, version.config.dimensions)
        return Route(served, version, options)

    async def _in_space(self, served: Served, space: str, caller: Caller) -> Version:
        """The version that makes vectors of ``space``. What the registry says of a version is found
        out to be wrong when it is loaded: then another that is said to make them is as good."""
        *others, last = served.model.in_space(space)
        for version in others:
            with contextlib.suppress(AdapterError):
                await self._loaded(served, version, caller)
                return version
        await self._loaded(served, last, caller)
        return last

    async def _loaded(self, served: Served, version: Version, caller: Caller) -> None:
        if not version.is_base:
            async with Deadline(caller, f"before version {version.name!r} was loaded"):
                await served.loader.ensure(version)
        found = served.residency.state(version)
        if found.state is State.FAILED:
            raise AdapterError(f"version {version.name!r} could not be loaded: {found.reason}")
