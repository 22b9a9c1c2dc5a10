"""``POST /v2/embed`` and ``POST /v1/embed``, as Cohere has them."""

from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field, WithJsonSchema

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.http.bodies import FORMAT, Number
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.fields import CallBody, Shaped
from vlm2vec_service.frontend.http.formats import in_json, written
from vlm2vec_service.frontend.http.input_shapes import CONTENTS, TEXTS, URLS
from vlm2vec_service.frontend.http.inputs import InputReader
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.http.media_text import IN_TEXTS
from vlm2vec_service.frontend.http.shapes import Choice, ListOf
from vlm2vec_service.frontend.pipeline import Pipeline

FORMATS = ListOf(FORMAT, "a list of formats", least=1)
OPTIONS = {"options.output.dimensions": "output_dimension", "options.truncate": "max_tokens"}
"""The options of a call that have another name here."""
TRUNCATE = Choice(
    ("END", "NONE"), description="Whether the end of too long a text is left out; it is."
)


class CohereEmbedBody(CallBody):
    """A request to embed ``texts``, ``images`` or ``inputs``: one of the three."""

    texts: Annotated[Any, WithJsonSchema(TEXTS.schema(nullable=True))] = None
    images: Annotated[Any, WithJsonSchema(URLS.schema(nullable=True))] = None
    inputs: Annotated[Any, WithJsonSchema(CONTENTS.schema(nullable=True))] = None
    input_type: str | None = Field(
        default=None, description="The instruction, if it is a sentence; a word is ignored."
    )
    embedding_types: Annotated[Any, Shaped(FORMATS)] = None
    output_dimension: Number = Field(
        default=None, description="Keep the first so many components, and normalise again."
    )
    truncate: Annotated[Any, Shaped(TRUNCATE)] = None
    max_tokens: Number = Field(default=None, description="Truncate inputs to so many tokens.")


class Embeddings(BaseModel):
    """The vectors of all inputs in each of the formats that were asked for."""

    float: list[list[float]] | None = None
    base64: list[str] | None = None
    binary: list[list[int]] | None = None
    ubinary: list[list[int]] | None = None


class CohereEmbedAnswer(BaseModel):
    """The answer to `CohereEmbedBody`; ``meta`` warns of texts that were truncated. The
    ``embeddings`` are a list where /v1/embed was asked for no ``embedding_types``."""

    id: str
    response_type: Literal["embeddings_by_type", "embeddings_floats"]
    embeddings: Embeddings | list[list[float]]
    texts: list[str]
    model: str
    version: str
    space: str
    meta: dict[str, Any]


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``POST /v2/embed`` and ``POST /v1/embed``."""
    router = APIRouter(tags=["embeddings"], route_class=BodyRoute)

    @router.post("/v1/embed", response_model=CohereEmbedAnswer, responses=RESPONSES)
    @router.post("/v2/embed", response_model=CohereEmbedAnswer, responses=RESPONSES)
    async def embed(body: CohereEmbedBody, request: Request) -> Response:
        """Embed texts, pictures, or both together, as Cohere's clients ask for it."""
        truncate = None if body.truncate == "NONE" else body.max_tokens or 0
        options = body.options(truncate)
        options.output.dimensions = body.output_dimension or 0
        task = body.task_of(None, "input_type")
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs, IN_TEXTS)
        given = [name for name in ("texts", "images", "inputs") if getattr(body, name) is not None]
        if len(given) != 1:
            raise InvalidInputError("texts", "needed, or images, or inputs: one of the three")

        def read() -> list[pb.Input]:
            if given == ["images"]:
                return reader.media(body.images, "images", task, "image_url")
            shape = TEXTS if given == ["texts"] else CONTENTS
            return reader.many(getattr(body, given[0]), given[0], task, shape)

        inputs = await reader.taken(read, len(await request.body()), fetcher)
        with reader.own_words(OPTIONS):
            answer = await calls.embed(pipeline, inputs, options, caller_of(pipeline))
        version = "1" if request.url.path == "/v1/embed" else "2"
        id = current.get().id
        return await written(lambda: _json(answer, body, version, id), answer)

    return router


def _json(answer: pb.EmbedResponse, body: CohereEmbedBody, version: str, id: str) -> bytes:
    """Writes a `CohereEmbedAnswer` to the request ``id``, as that ``version`` of Cohere's API."""
    vectors, first = answer.embeddings, answer.embeddings[0]
    cut = [str(index) for index, item in enumerate(vectors) if item.truncated]
    warnings = [f"the end was left out of the inputs {', '.join(cut)}"] if cut else []
    embeddings: Any = {
        format: [in_json(item.vector, format) for item in vectors]
        for format in body.embedding_types or ["float"]
    }
    kind = "embeddings_by_type"
    if version == "1" and body.embedding_types is None:
        kind, embeddings = "embeddings_floats", embeddings["float"]
    return orjson.dumps(
        {
            "id": id,
            "response_type": kind,
            "embeddings": embeddings,
            "texts": body.texts or [],
            "model": first.model,
            "version": first.version,
            "space": first.space,
            "meta": {
                "api_version": {"version": version},
                "billed_units": {"input_tokens": sum(item.tokens for item in vectors)},
                "warnings": warnings,
            },
        }
    )
