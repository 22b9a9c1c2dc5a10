"""The unary calls of the public API, whatever protocol they came by."""

import numpy as np

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.frontend.limits import check_count
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.request import Caller


async def embed(pipeline: Pipeline, request: pb.EmbedRequest, caller: Caller) -> pb.EmbedResponse:
    """Embeds all inputs, or raises the first error, a `ServeError`."""
    check_count("inputs", len(request.inputs), pipeline.settings.max_inputs)
    inputs = {f"inputs[{i}]": message for i, message in enumerate(request.inputs)}
    answers = await pipeline.answer(inputs, request.options, caller)
    return pb.EmbedResponse(embeddings=[answer.to_proto() for answer in answers])


async def rank(pipeline: Pipeline, request: pb.RankRequest, caller: Caller) -> pb.RankResponse:
    """Gives the cosines of the candidates' vectors to the query's, the best first. Raises
    `ServeError`."""
    check_count("candidates", len(request.candidates), pipeline.settings.max_inputs)
    options = pb.CallOptions()
    options.CopyFrom(request.options)
    options.ClearField("output")
    options.output.normalize = True
    inputs = {"query": request.query}
    inputs |= {f"candidates[{i}]": message for i, message in enumerate(request.candidates)}
    answers = await pipeline.answer(inputs, options, caller)
    vectors = np.stack([answer.vector for answer in answers])
    # Rounding may leave the cosine of equal vectors a little above 1.
    scores = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
    best = np.argsort(-scores, kind="stable")[: request.top_k or None]
    route = answers[0].route
    return pb.RankResponse(
        candidates=[pb.RankedCandidate(index=i, score=scores[i]) for i in best.tolist()],
        model=route.served.model.name,
        version=route.version.name,
        space=route.version.space,
        tokens=sum(answer.tokens for answer in answers),
    )


def list_models(pipeline: Pipeline, caller: Caller) -> pb.ListModelsResponse:
    """Lists the models and their versions, as far as ``caller`` may use them."""
    models = [
        pb.Model(
            name=served.model.name,
            backbone=served.model.backbone,
            dimension=served.dimension,
            ready=served.residency.ready,
            reason=served.residency.unready,
            versions=[
                pb.ModelVersion(
                    version=version.name,
                    space=version.space,
                    aliases=served.model.aliases_of(version),
                )
                for version in served.model.versions.values()
            ],
        )
        for name, served in sorted(pipeline.served.items())
        if caller.identity.may_use(name)
    ]
    return pb.ListModelsResponse(models=models)
