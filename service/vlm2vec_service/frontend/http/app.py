"""The ASGI application: its routes, and FastAPI's own errors handed over to `Middleware`."""

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vlm2vec_service.errors import InvalidInputError, ServeError
from vlm2vec_service.frontend.access import Access
from vlm2vec_service.frontend.http import (
    adapters,
    cohere,
    embeddings,
    health,
    kserve,
    models,
    pages,
    rerank,
    tei,
)
from vlm2vec_service.frontend.http.cors import allow_origins
from vlm2vec_service.frontend.http.errors import RequestError
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.middleware import Middleware
from vlm2vec_service.frontend.http.paths import Paths
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.settings import HttpSettings

ELEMENT_BYTES = 16
"""Of JSON for each key or value, beside texts: a token id, a short key, what is around them."""
LONGEST_TEXTS = 64
"""How many inputs of one body may have the longest text; of more the texts are shorter."""


def build_app(
    pipeline: Pipeline, access: Access, settings: HttpSettings, fetcher: Fetcher, *more: APIRouter
) -> FastAPI:
    """Builds the application with the routes of the API and ``more``; `Middleware` decides who may
    call which."""
    app = FastAPI(
        title="vlm2vec-serve",
        summary="VLM2Vec embeddings of text, images, video and audio",
        version="1",
        docs_url=None,
        redoc_url=None,
    )
    server = pipeline.settings
    texts = (min(server.max_inputs, LONGEST_TEXTS) + 1) * pipeline.limits.max_text_bytes
    app.state.max_elements = server.max_elements
    app.state.max_text_bytes = texts + ELEMENT_BYTES * server.max_elements
    app.add_middleware(Middleware, access=access, settings=settings)
    allow_origins(app, settings.http_cors_origins)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unroutable)
    routers = (
        embeddings.routes(pipeline, fetcher), rerank.routes(pipeline, fetcher),
        cohere.routes(pipeline, fetcher), tei.routes(pipeline, fetcher),
        kserve.routes(pipeline, fetcher),
        models.routes(pipeline), adapters.routes(pipeline), health.routes(pipeline),
        pages.routes(), *more,
    )  # fmt: skip
    app.state.paths = Paths(routers)
    for router in routers:
        app.include_router(router)
    _describe(app, access.authenticator.required)
    return app


def _describe(app: FastAPI, with_keys: bool) -> None:
    """Mends what FastAPI by itself says of the API in ``/openapi.json``."""
    schema = app.openapi()
    for methods in schema["paths"].values():
        for operation in methods.values():
            operation["responses"].pop("422", None)  # `_malformed` makes it 400
    if with_keys:
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]


async def _malformed(request: Request, error: Exception) -> Response:
    """Raises the `InvalidInputError` of the first field that is wrong, by its path in the body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [item for item in first["loc"] if item != "body"]
    field = "".join(f"[{item}]" if isinstance(item, int) else f".{item}" for item in place)
    if not field:
        raise InvalidInputError("body", "expected a JSON object, content-type: application/json")
    raise InvalidInputError(field[1:100], first["msg"])


async def _unroutable(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ServeError):  # FastAPI's own for what reading the body raised
        raise error.__cause__
    paths: Paths = request.app.state.paths
    path = request.url.path
    if error.status_code == 404:
        raise paths.missing(path)
    if error.status_code == 405:
        raise paths.wrong_method(path, request.method)
    raise RequestError(error.status_code, "request", str(error.detail))
