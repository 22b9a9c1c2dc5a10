"""``POST /v1/rerank`` as Jina has it, and vLLM and Cohere under other paths; ``/v1/score`` as vLLM
has it."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.http.bodies import RerankAnswer, RerankBody, ScoreAnswer, ScoreBody
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.input_shapes import DOCUMENTS
from vlm2vec_service.frontend.http.inputs import InputReader, Task, separate
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.parsing import parsed
from vlm2vec_service.frontend.pipeline import Pipeline

OF_DOCUMENTS = "document_instruction"


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``POST /v1/rerank``, ``/v2/rerank``, ``/v1/score`` and ``/score``."""
    router = APIRouter(tags=["rerank"], route_class=BodyRoute)

    @router.post("/v1/rerank", response_model=RerankAnswer, responses=RESPONSES)
    @router.post("/v2/rerank", response_model=RerankAnswer, include_in_schema=False)
    async def rerank(body: RerankBody, request: Request) -> Response:
        """Order documents by the cosine of their vectors to the query's."""
        return await answer_rerank(pipeline, fetcher, body, len(await request.body()))

    @router.post("/v1/score", response_model=ScoreAnswer, responses=RESPONSES)
    @router.post("/score", response_model=ScoreAnswer, include_in_schema=False)
    async def score(body: ScoreBody, request: Request) -> Response:
        """Give the cosine of one thing's vector to those of others, in the order of these."""
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)
        first, others = (
            _given(body, "text_1", "data_1", "queries"),
            _given(body, "text_2", "data_2", "documents", "items"),
        )

        def read() -> tuple[pb.Input, list[pb.Input]]:
            query = reader.inputs(getattr(body, first), first, Task(body.instruction or ""))
            if len(query) > 1:
                raise InvalidInputError(first, f"{len(query)} given; one is compared with others")
            task, given = Task(body.document_instruction or "", OF_DOCUMENTS), getattr(body, others)
            if isinstance(given, dict):
                return query[0], reader.many(given, others, task, DOCUMENTS)
            return query[0], reader.inputs(given, others, task)

        query, documents = await reader.taken(read, len(await request.body()), fetcher)
        options = body.options(body.most_tokens())
        with reader.own_words(first=1):
            answer = await calls.rank(pipeline, query, documents, options, 0, caller_of(pipeline))
        data = [
            {"index": item.index, "object": "score", "score": item.score}
            for item in sorted(answer.candidates, key=lambda item: item.index)
        ]
        content = {"id": current.get().id, "object": "list", "data": data, **_of_all(answer)}
        return Response(orjson.dumps(content), media_type="application/json")

    return router


async def answer_rerank(
    pipeline: Pipeline, fetcher: Fetcher, body: RerankBody, size: int
) -> Response:
    """Answers a request with ``body``, whose JSON has ``size`` bytes, by a `RerankAnswer`."""
    reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)

    def read() -> tuple[pb.Input, list[pb.Input]]:
        query = reader.one(body.query, "query", Task(body.instruction or ""))
        task = Task(body.document_instruction or "", OF_DOCUMENTS)
        return query, reader.many(body.documents, "documents", task, DOCUMENTS)

    query, documents = await reader.taken(read, size, fetcher)
    most = body.most_tokens() if body.max_tokens_per_doc is None else body.max_tokens_per_doc
    options, caller = body.options(most), caller_of(pipeline)
    names = {} if body.max_tokens_per_doc is None else {"options.truncate": "max_tokens_per_doc"}
    with reader.own_words(names, first=1):
        answer = await calls.rank(pipeline, query, documents, options, body.top_n or 0, caller)
    id = current.get().id
    content = await parsed(lambda: _json(answer, body, id), size)
    return Response(content, media_type="application/json")


def _given(body: ScoreBody, *names: str) -> str:
    """Which one of several names of a field the caller gave. Raises `InvalidInputError` for none or
    more."""
    given = [name for name in names if getattr(body, name) is not None]
    if len(given) != 1:
        raise InvalidInputError(names[0], f"needed, or one of {', '.join(names[1:])}")
    return given[0]


def _json(answer: pb.RankResponse, body: RerankBody, id: str) -> bytes:
    """Writes a `RerankAnswer` to the request ``id``, with the documents where ``body`` asks for
    them."""
    documents = body.documents
    if isinstance(documents, dict):
        documents = [document for _, document in separate(documents)]
    results = []
    for candidate in answer.candidates:
        result: dict[str, Any] = {"index": candidate.index, "relevance_score": candidate.score}
        if body.return_documents:
            result["document"] = _shown(documents[candidate.index])
        if candidate.truncated:
            result["truncated"] = True
        results.append(result)
    return orjson.dumps({"id": id, "results": results, **_of_all(answer)})


def _of_all(answer: pb.RankResponse) -> dict[str, Any]:
    """What an answer says beside its scores."""
    return {
        "model": answer.model,
        "version": answer.version,
        "space": answer.space,
        "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
    }


def _shown(document: Any) -> dict[str, Any]:
    """The document as an object, whichever of the shapes it came in."""
    if isinstance(document, dict):
        return document
    return {"text" if isinstance(document, str) else "token_ids": document}
