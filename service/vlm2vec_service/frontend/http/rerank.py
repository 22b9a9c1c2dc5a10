"""``POST /v1/rerank`` as Jina has it, ``/v2/rerank`` as Cohere does: the same."""

from typing import Any

import orjson
from fastapi import APIRouter, Request, Response

from vlm2vec.v1 import embedding_pb2 as pb
from vlm2vec_service.frontend import calls
from vlm2vec_service.frontend.access import current
from vlm2vec_service.frontend.http.bodies import RerankAnswer, RerankBody
from vlm2vec_service.frontend.http.caller import caller_of
from vlm2vec_service.frontend.http.errors import RESPONSES
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.inputs import InputReader, call_options
from vlm2vec_service.frontend.http.json_body import BodyRoute
from vlm2vec_service.frontend.parsing import parsed
from vlm2vec_service.frontend.pipeline import Pipeline


def routes(pipeline: Pipeline, fetcher: Fetcher) -> APIRouter:
    """Makes the router of ``POST /v1/rerank`` and ``/v2/rerank``."""
    router = APIRouter(tags=["rerank"], route_class=BodyRoute)

    @router.post("/v1/rerank", response_model=RerankAnswer, responses=RESPONSES)
    @router.post("/v2/rerank", response_model=RerankAnswer, include_in_schema=False)
    async def rerank(body: RerankBody, request: Request) -> Response:
        """Order documents by the cosine of their vectors to the query's."""
        reader = InputReader(pipeline.limits, pipeline.settings.max_inputs)

        def read() -> tuple[pb.Input, list[pb.Input]]:
            query = reader.one(body.query, "query", body.instruction or "")
            instruction = body.document_instruction or ""
            return query, reader.many(body.documents, "documents", instruction)

        size = len(await request.body())
        query, documents = await parsed(read, size)
        await reader.fetch(fetcher)
        options = call_options(pipeline.catalog, body.model, body.priority, body.user)
        caller = caller_of(pipeline)
        answer = await calls.rank(pipeline, query, documents, options, body.top_n or 0, caller)
        id = current.get().id
        content = await parsed(lambda: _json(answer, body, id), size)
        return Response(content, media_type="application/json")

    return router


def _json(answer: pb.RankResponse, body: RerankBody, id: str) -> bytes:
    """Writes a `RerankAnswer` to the request ``id``, with the documents where ``body`` asks for
    them."""
    results = []
    for candidate in answer.candidates:
        result: dict[str, Any] = {"index": candidate.index, "relevance_score": candidate.score}
        if body.return_documents:
            result["document"] = _shown(body.documents[candidate.index])
        results.append(result)
    return orjson.dumps(
        {
            "id": id,
            "model": answer.model,
            "version": answer.version,
            "space": answer.space,
            "results": results,
            "usage": {"prompt_tokens": answer.tokens, "total_tokens": answer.tokens},
        }
    )


def _shown(document: Any) -> dict[str, Any]:
    """The document as an object, whichever of the shapes it came in."""
    if isinstance(document, dict):
        return document
    return {"text" if isinstance(document, str) else "token_ids": document}
