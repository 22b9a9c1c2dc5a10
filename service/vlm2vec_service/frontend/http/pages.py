"""The pages for people: ``/`` shows and tries what is served, ``/docs`` is made of
``/openapi.json``. Everything on them is served from here, and nothing is run but its own files."""

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import APIRouter, Response

FOLDER = Path(__file__).parent / "static"
TYPES = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}
FILES = {
    "/": "index.html",
    "/docs": "docs.html",
    **{f"/static/{path.name}": path.name for path in FOLDER.iterdir() if path.suffix != ".html"},
}
"""The file of each path."""
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src 'self' blob:; media-src blob:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def routes() -> APIRouter:
    """Makes the router of the pages and of what they consist of."""
    router = APIRouter()
    for path, name in FILES.items():
        router.get(path, include_in_schema=False)(_file(FOLDER / name))
    return router


def _file(path: Path) -> Callable[[], Awaitable[Response]]:
    content, media_type = path.read_bytes(), TYPES[path.suffix]

    async def answer() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)

    return answer
