"""The unary calls of the public API, whatever protocol they came by."""

import asyncio
from collections.abc import Mapping

import numpy as np

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.pipeline import Caller, Pipeline, Target


async def embed(pipeline: Pipeline, request: pb.EmbedRequest, caller: Caller) -> pb.EmbedResponse:
    """All inputs, or the first error. Raises `ServeError`."""
    _check_count(pipeline, "inputs", len(request.inputs))
    target = await pipeline.target(request.options, caller)
    inputs = {f"inputs[{i}]": message for i, message in enumerate(request.inputs)}
    return pb.EmbedResponse(embeddings=await _all(pipeline, inputs, target, caller))


async def rank(pipeline: Pipeline, request: pb.RankRequest, caller: Caller) -> pb.RankResponse:
    """Cosines of the candidates' vectors to the query's, the best first. Raises `ServeError`."""
    _check_count(pipeline, "candidates", len(request.candidates))
    options = pb.CallOptions()
    options.CopyFrom(request.options)
    options.ClearField("output")
    options.output.normalize = True
    target = await pipeline.target(options, caller)
    inputs = {"query": request.query}
    inputs |= {f"candidates[{i}]": message for i, message in enumerate(request.candidates)}
    embeddings = await _all(pipeline, inputs, target, caller)
    vectors = np.stack([np.frombuffer(e.vector.data, "<f4") for e in embeddings])
    # Rounding may leave the cosine of equal vectors a little above 1.
    scores = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
    best = np.argsort(-scores, kind="stable")[: request.top_k or None]
    return pb.RankResponse(
        candidates=[pb.RankedCandidate(index=i, score=scores[i]) for i in best.tolist()],
        model=target.served.model.name,
        version=target.version.name,
        space=target.version.space,
        tokens=sum(embedding.tokens for embedding in embeddings),
    )


def list_models(pipeline: Pipeline, caller: Caller) -> pb.ListModelsResponse:
    """The catalog, as far as ``caller`` may use it."""
    models = [
        pb.Model(
            name=served.model.name,
            backbone=served.model.backbone,
            dimension=served.dimension,
            ready=served.ready,
            versions=[
                pb.ModelVersion(
                    version=version.name,
                    space=version.space,
                    aliases=served.model.aliases_of(version.name),
                )
                for version in served.model.versions.values()
            ],
        )
        for name, served in sorted(pipeline.served.items())
        if caller.identity.may_use(name)
    ]
    return pb.ListModelsResponse(models=models)


async def _all(
    pipeline: Pipeline, inputs: Mapping[str, pb.Input], target: Target, caller: Caller
) -> list[pb.Embedding]:
    """Embeds ``inputs``, by their field, together; the first error cancels the others."""
    with pipeline.admitted(target, caller, len(inputs)):
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(pipeline.embed(message, target, caller, field))
                    for field, message in inputs.items()
                ]
        except ExceptionGroup as errors:
            # The others only say that they were cancelled.
            raise errors.exceptions[0] from None
    return [task.result() for task in tasks]


def _check_count(pipeline: Pipeline, field: str, count: int) -> None:
    most = pipeline.settings.max_inputs
    if not 1 <= count <= most:
        raise InvalidInputError(field, f"{count} given; 1 to max_inputs, {most}, are accepted")
