"""The ASGI application: its routes, and FastAPI's own errors handed over to `Middleware`."""

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from vlm2vec_service.errors import InvalidInputError
from vlm2vec_service.frontend.access import Access
from vlm2vec_service.frontend.http import embeddings, models, rerank
from vlm2vec_service.frontend.http.errors import RequestError
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.middleware import Middleware
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.settings import HttpSettings


def build_app(
    pipeline: Pipeline, access: Access, settings: HttpSettings, fetcher: Fetcher, *more: APIRouter
) -> FastAPI:
    """Builds the application with the routes of the API and ``more``; `Middleware` decides who may
    call which."""
    app = FastAPI(
        title="vlm2vec-serve",
        summary="VLM2Vec embeddings of text, images and video",
        version="1",
        redoc_url=None,
        swagger_ui_oauth2_redirect_url=None,
    )
    app.add_middleware(Middleware, access=access, settings=settings)
    app.add_exception_handler(RequestValidationError, _malformed)
    app.add_exception_handler(HTTPException, _unroutable)
    for router in (
        embeddings.routes(pipeline, fetcher), rerank.routes(pipeline, fetcher),
        models.routes(pipeline), *more,
    ):  # fmt: skip
        app.include_router(router)
    if access.authenticator.required:  # so that the page has a place for the key
        schema = app.openapi()
        schema["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        schema["security"] = [{"key": []}]
    return app


async def _malformed(request: Request, error: Exception) -> Response:
    """Raises the `InvalidInputError` of the first field that is wrong, by its path in the body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    place = [item for item in first["loc"] if item != "body"]
    if first["type"] == "json_invalid":
        raise InvalidInputError("body", f"no JSON: {first['ctx']['error']}")
    field = "".join(f"[{item}]" if isinstance(item, int) else f".{item}" for item in place)
    if not field:
        raise InvalidInputError("body", "expected a JSON object, content-type: application/json")
    raise InvalidInputError(field[1:100], first["msg"])


async def _unroutable(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if error.status_code == 400:
        raise InvalidInputError("body", _why_no_json(error.__cause__))
    raise RequestError(
        error.status_code, request.method, f"{request.url.path[:200]}: {error.detail}"
    )


def _why_no_json(error: BaseException | None) -> str:
    """What a body is that JSON's parser failed on with another error than its own."""
    if isinstance(error, UnicodeError):
        return "no JSON in UTF-8"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "no JSON that this server reads; is there a number of thousands of digits in it?"
