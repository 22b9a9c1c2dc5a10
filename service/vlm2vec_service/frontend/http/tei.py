"""``POST /embed``, ``/rerank`` and ``/similarity`` and ``GET /info``, as text-embeddings-inference
has them.

Its clients name no model. Where there are several, the URL may: ``/embed?model=NAME``.
"""

import importlib.metadata
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field, ValidationError, WithJsonSchema

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.http.bodies import (
    DIMENSIONS,
    INSTRUCTION,
    TRUNCATE,
    Number,
    RerankBody,
)
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.fields import CallBody, Shaped, ignored, only
from vlm2vec_service.frontend.http.formats import in_json, written
from vlm2vec_service.frontend.http.input_shapes import INPUT, MANY, ONE
from vlm2vec_service.frontend.http.inputs import InputReader, Task
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.http.rerank import OF_DOCUMENTS, answer_rerank
from vlm2vec_service.frontend.http.shapes import Flag, Object
from vlm2vec_service.frontend.pipeline import Pipeline

RIGHT = only("Right", "right", why="it is the end that is left out")
UNNAMED = only(why="give the prompt itself, as instruction")
SIMILAR = Object({"source_sentence": ONE, "sentences": MANY}, ("source_sentence", "sentences"))
PARAMETERS = Object(
    {"truncate": Flag(), "truncation_direction": RIGHT.shape, "prompt_name": UNNAMED.shape}
)


class TeiBody(CallBody):
    """The base of the requests that text-embeddings-inference takes."""

    instruction: str | None = INSTRUCTION
    truncate: bool | None = TRUNCATE
    truncation_direction: Annotated[Any, RIGHT] = None

    def most_tokens(self) -> int | None:
        """What inputs are truncated to, as the gRPC API has it."""
        return 0 if self.truncate else None


class TeiEmbedBody(TeiBody):
    """A request to embed ``inputs``: one or a list."""

    inputs: Annotated[Any, WithJsonSchema(INPUT.schema())]
    normalize: bool | None = Field(default=None, description="L2-normalise, unless it is false.")
    prompt_name: Annotated[Any, UNNAMED] = None
    dimensions: Number = DIMENSIONS


class TeiRerankBody(TeiBody):
    """A request to order ``texts`` by how near they are to ``query``."""

    query: Annotated[Any, WithJsonSchema(ONE.schema())]
    texts: Annotated[Any, WithJsonSchema(MANY.schema())]
    document_instruction: str | None = Field(default=None, description="The texts' task.")
    return_text: bool | None = None
    raw_scores: Annotated[Any, ignored("a score is the cosine")] = None


class TeiSimilarityBody(CallBody):
    """A request to compare one thing with others, all under one instruction."""

    inputs: Annotated[Any, WithJsonSchema(SIMILAR.schema())]
    parameters: Annotated[Any, Shaped(PARAMETERS)] = None
    instruction: str | None = INSTRUCTION


class Info(BaseModel):
    """A model that is served, and how much a request may have."""

    model_id: str
    model_sha: str
    model_type: dict[str, Any]
    max_concurrent_requests: int
    max_input_length: int
    max_client_batch_size: int
    auto_truncate: bool
    version: str


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``/embed``, ``/rerank``, ``/similarity`` and ``/info``."""
    router = APIRouter(tags=["text-embeddings-inference"], route_class=BodyRoute)

    @router.post("/embed", response_model=list[list[float]], responses=RESPONSES)
    async def embed(body: TeiEmbedBody, request: Request, model: str = "") -> Response:
        """Embed one or more inputs: an answer of vectors and nothing else."""
        body.model = body.model or model
        options = body.options(body.most_tokens())
        options.output.dimensions = body.dimensions or 0
        if body.normalize is not None:
            options.output.normalize = body.normalize
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)
        task = Task(body.instruction or "")
        size = len(await request.body())
        inputs = await reader.taken(
            lambda: reader.inputs(body.inputs, "inputs", task), size, fetcher
        )
        with reader.own_words():
            answer = await calls.embed(pipeline, inputs, options, caller_of(pipeline))

        def write() -> bytes:
            return orjson.dumps([in_json(item.vector, "float") for item in answer.embeddings])

        return await written(write, answer)

    @router.post("/rerank", include_in_schema=False)
    async def rerank(request: Request, model: str = "") -> Response:
        """Order ``texts``, or ``documents`` as ``/v1/rerank`` does: others have that here, too."""
        values, size = await request.json(), len(await request.body())
        try:
            if isinstance(values, dict) and "texts" in values:
                body = TeiRerankBody.model_validate(values)
                body.model = body.model or model
                return await _answer(pipeline, fetcher, body, size)
            return await answer_rerank(pipeline, fetcher, RerankBody.model_validate(values), size)
        except ValidationError as error:
            raise RequestValidationError(error.errors()) from error

    @router.post("/similarity", response_model=list[float], responses=RESPONSES)
    async def similarity(body: TeiSimilarityBody, request: Request, model: str = "") -> Response:
        """Give the cosines of a source sentence to others, in the order of these."""
        body.model = body.model or model
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)
        given, task = body.inputs, Task(body.instruction or "")

        def read() -> tuple[pb.Input, list[pb.Input]]:
            SIMILAR.check(given, "inputs")
            source = reader.one(given["source_sentence"], "inputs.source_sentence", task)
            return source, reader.many(given["sentences"], "inputs.sentences", task)

        source, others = await reader.taken(read, len(await request.body()), fetcher)
        options = body.options(0 if (body.parameters or {}).get("truncate") else None)
        with reader.own_words(first=1):
            answer = await calls.rank(pipeline, source, others, options, 0, caller_of(pipeline))
        found = sorted(answer.candidates, key=lambda item: item.index)
        return Response(orjson.dumps([one.score for one in found]), media_type="application/json")

    @router.get("/info", responses=RESPONSES)
    async def info(model: str = "") -> Info:
        """Describe a model by the limits of a request; where there are several, ``model`` says
        which."""
        caller = caller_of(pipeline)
        if model:
            caller.identity.check_model(model)
        found = pipeline.catalog.model(model)
        caller.identity.check_model(found.name)
        return Info(
            model_id=found.name,
            model_sha=found.choose("", "", "", caller.name).space,
            model_type={"embedding": {"pooling": "last_token"}},
            max_concurrent_requests=pipeline.settings.max_calls,
            max_input_length=pipeline.limits.max_tokens,
            max_client_batch_size=pipeline.settings.max_inputs,
            auto_truncate=False,
            version=importlib.metadata.version("vlm2vec-serve"),
        )

    return router


async def _answer(pipeline: Pipeline, fetcher: Fetcher, body: TeiRerankBody, size: int) -> Response:
    reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)

    def read() -> tuple[pb.Input, list[pb.Input]]:
        query = reader.one(body.query, "query", Task(body.instruction or ""))
        task = Task(body.document_instruction or "", OF_DOCUMENTS)
        return query, reader.many(body.texts, "texts", task)

    query, texts = await reader.taken(read, size, fetcher)
    options, caller = body.options(body.most_tokens()), caller_of(pipeline)
    with reader.own_words(first=1):
        answer = await calls.rank(pipeline, query, texts, options, 0, caller)
    results = [
        {"index": item.index, "score": item.score}
        | ({"text": body.texts[item.index]} if body.return_text else {})
        for item in answer.candidates
    ]
    return Response(orjson.dumps(results), media_type="application/json")
