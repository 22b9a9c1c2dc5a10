"""Which pages of other origins may call from a browser: cross-origin resource sharing."""

import re

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from vlm2vec_service.errors import StartError

ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?")
"""An origin as browsers send it."""
SHOWN = ("x-request-id", "retry-after", "retry-after-ms")
"""The headers of answers that pages may read."""


def read_origins(origins: str) -> list[str]:
    """Lists comma-separated ``origins``. Raises `StartError` for what is none."""
    allowed = [origin.strip() for origin in origins.split(",") if origin.strip()]
    for origin in allowed:
        if origin != "*" and not ORIGIN.fullmatch(origin):
            raise StartError(
                f"{origin!r} is neither * nor an origin as browsers send it: SCHEME://HOST or "
                "SCHEME://HOST:PORT in lower case, with nothing behind it",
                "http_cors_origins",
            )
    return allowed


def allow_origins(app: FastAPI, origins: str) -> None:
    """Lets pages of ``origins`` call: exact ones, comma-separated, or ``*`` for all; empty changes
    nothing. Raises `StartError` for what is no origin.

    A page has to send a key by itself: none is ever told to send what the browser keeps, cookies or
    client certificates. Preflight requests are answered before anybody asks who calls, since
    browsers send them without a credential.
    """
    if allowed := read_origins(origins):
        app.add_middleware(
            CORSMiddleware,
            allow_origins=allowed,
            allow_methods=("GET", "POST"),
            allow_headers=("*",),
            expose_headers=SHOWN,
        )
