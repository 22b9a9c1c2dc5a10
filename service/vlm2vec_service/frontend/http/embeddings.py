"""``POST /v1/embeddings``, as OpenAI has it, and media beside text as vLLM does."""

import base64

import numpy as np
import orjson
from fastapi import APIRouter, Request, Response

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.http.bodies import EmbeddingsAnswer, EmbeddingsBody
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.inputs import InputReader, call_options
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.parsing import parsed
from vlm2vec_service.frontend.pipeline import Pipeline


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``POST /v1/embeddings``."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/v1/embeddings", response_model=EmbeddingsAnswer, responses=RESPONSES)
    async def create_embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Embed text, token ids, images and video: one vector for each input."""
        options = call_options(pipeline.catalog, body.model, body.priority, body.user)
        options.output.dimensions = body.dimensions or 0
        if body.normalize is not None:
            options.output.normalize = body.normalize
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)
        if (body.input is None) == (body.messages is None):
            raise InvalidInputError("input", "needed, or messages: exactly one of them")

        def read() -> list[pb.Input]:
            if body.messages is not None:
                return [reader.chat(body.messages, body.instruction or "")]
            return reader.inputs(body.input, "input", body.instruction or "")

        inputs = await parsed(read, len(await request.body()))
        await reader.fetch(fetcher)
        answer = await calls.embed(pipeline, inputs, options, caller_of(pipeline))
        return Response(
            _json(answer, body.encoding_format == "base64"), media_type="application/json"
        )

    return router


def _json(answer: pb.EmbedResponse, as_base64: bool) -> bytes:
    """Writes an `EmbeddingsAnswer`: without pydantic, which would go over every number."""
    first, tokens = answer.embeddings[0], sum(item.tokens for item in answer.embeddings)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": base64.b64encode(item.vector.data).decode()
            if as_base64
            else np.frombuffer(item.vector.data, "<f4"),
        }
        for index, item in enumerate(answer.embeddings)
    ]
    return orjson.dumps(
        {
            "object": "list",
            "data": data,
            "model": first.model,
            "version": first.version,
            "space": first.space,
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        },
        option=orjson.OPT_SERIALIZE_NUMPY,
    )
