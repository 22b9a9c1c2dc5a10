"""The unary calls of the public API, whatever protocol they came by."""

import asyncio
from collections.abc import Sequence

import numpy as np

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.frontend.limits import check_count
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.request import Caller

AT_ONCE = 64
"""Answers that are packed before others get their turn."""


async def embed(
    pipeline: Pipeline, inputs: Sequence[pb.Input], options: pb.CallOptions, caller: Caller
) -> pb.EmbedResponse:
    """Embeds all inputs, or raises the first error, a `ServeError`."""
    check_count("inputs", len(inputs), pipeline.settings.max_inputs)
    named = {f"inputs[{i}]": message for i, message in enumerate(inputs)}
    answers = await pipeline.answer(named, options, caller)
    response = pb.EmbedResponse()
    for number, answer in enumerate(answers):
        if number and number % AT_ONCE == 0:
            await asyncio.sleep(0)
        answer.write(response.embeddings.add())
    return response


async def rank(
    pipeline: Pipeline,
    query: pb.Input,
    candidates: Sequence[pb.Input],
    options: pb.CallOptions,
    top_k: int,
    caller: Caller,
) -> pb.RankResponse:
    """Gives the cosines of the candidates' vectors to the query's: the best ``top_k``, or all of
    them for 0, the best first. Raises `ServeError`."""
    check_count("candidates", len(candidates), pipeline.settings.max_inputs)
    unit = pb.CallOptions()
    unit.CopyFrom(options)
    unit.ClearField("output")
    unit.output.normalize = True
    inputs = {"query": query}
    inputs |= {f"candidates[{i}]": message for i, message in enumerate(candidates)}
    answers = await pipeline.answer(inputs, unit, caller)
    vectors = np.stack([answer.vector for answer in answers])
    # Rounding may leave the cosine of equal vectors a little above 1.
    scores = np.clip(vectors[1:] @ vectors[0], -1.0, 1.0)
    best = np.argsort(-scores, kind="stable")[: top_k or None]
    route = answers[0].route
    return pb.RankResponse(
        candidates=[
            pb.RankedCandidate(index=i, score=scores[i], truncated=answers[i + 1].truncated)
            for i in best.tolist()
        ],
        model=route.served.model.name,
        version=route.version.name,
        space=route.version.space,
        tokens=sum(answer.tokens for answer in answers),
        query_truncated=answers[0].truncated,
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
            canary_share=served.model.canary_share,
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
