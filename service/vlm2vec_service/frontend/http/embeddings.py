"""``POST /v1/embeddings``, as OpenAI has it, with what vLLM, Jina and Infinity add to it."""

import orjson
from fastapi import APIRouter, Request, Response

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.http.bodies import EmbeddingsAnswer, EmbeddingsBody
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.formats import in_json, written
from vlm2vec_service.frontend.http.inputs import InputReader
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.pipeline import Pipeline


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``POST /v1/embeddings``."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/v1/embeddings", response_model=EmbeddingsAnswer, responses=RESPONSES)
    async def create_embeddings(body: EmbeddingsBody, request: Request) -> Response:
        """Embed text, token ids, images, video and audio: one vector for each input."""
        options = body.options(_truncate(body))
        options.output.dimensions = body.dimensions or 0
        normalize = body.one_of("normalize", "normalized", "use_activation")
        if normalize is not None:
            options.output.normalize = normalize
        task, format = body.task_of(body.instruction, "task"), _format(body)
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)
        if (body.input is None) == (body.messages is None):
            raise InvalidInputError("input", "needed, or messages: exactly one of them")
        of_media = body.modality not in (None, "text")
        if of_media and body.messages is not None:
            raise InvalidInputError("modality", "it is for input; a part of messages has a type")

        def read() -> list[pb.Input]:
            if body.messages is not None:
                return [reader.chat(body.messages, task)]
            if of_media and isinstance(body.input, str):
                return [reader.row([(f"{body.modality}_url", body.input, "input")], "input", task)]
            if of_media:
                return reader.media(body.input, "input", task, f"{body.modality}_url")
            return reader.inputs(body.input, "input", task)

        inputs = await reader.taken(read, len(await request.body()), fetcher)
        with reader.own_words():
            answer = await calls.embed(pipeline, inputs, options, caller_of(pipeline))
        return await written(lambda: _json(answer, format), answer)

    return router


def _truncate(body: EmbeddingsBody) -> int | None:
    """What inputs are truncated to, as the gRPC API has it."""
    most = body.most_tokens()
    return 0 if most is None and body.truncate else most


def _format(body: EmbeddingsBody) -> str:
    """The format of the vectors. Raises `InvalidInputError` for more than one."""
    if isinstance(body.embedding_type, list):
        if len(body.embedding_type) > 1:
            raise InvalidInputError("embedding_type", "one format at a time")
        body.embedding_type = body.embedding_type[0]
    format: str | None = body.one_of("encoding_format", "embedding_type")
    return format or "float"


def _json(answer: pb.EmbedResponse, format: str) -> bytes:
    """Writes an `EmbeddingsAnswer`: without pydantic, which would go over every number."""
    first, tokens = answer.embeddings[0], sum(item.tokens for item in answer.embeddings)
    data = [
        {
            "object": "embedding",
            "index": index,
            "embedding": in_json(item.vector, format),
            **({"truncated": True} if item.truncated else {}),
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
        }
    )
