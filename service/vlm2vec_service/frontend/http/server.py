"""The HTTP server, in the event loop of the front end beside gRPC."""

import asyncio
import contextlib
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlm2vec_service.frontend.access import Access
from vlm2vec_service.frontend.addresses import bind
from vlm2vec_service.frontend.http import webhook
from vlm2vec_service.frontend.http.app import build_app
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.frontend.tls import Certificate, certificate_names, http_context
from vlm2vec_service.settings import HttpSettings

MAX_HEAD_BYTES = 65_536
"""Bytes of a request's URL and headers; more are no request."""


class HttpServer(uvicorn.Server):
    """Uvicorn's server, started and stopped by its owner, who handles the process's signals."""

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        settings: HttpSettings,
        drain_seconds: float,
    ) -> None:
        config = uvicorn.Config(
            app,
            http=_Protocol,
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            proxy_headers=False,
            server_header=False,
            timeout_keep_alive=int(settings.http_keepalive_seconds),
            timeout_graceful_shutdown=int(drain_seconds),
        )
        config.load()
        config.ssl = context
        super().__init__(config)
        self._listener = listener
        # It would log starting, stopping and requests that are no HTTP, of no use to anybody.
        logging.getLogger("uvicorn.error").setLevel(logging.CRITICAL)

    async def start(self) -> None:
        """Starts to serve; returns as soon as requests are answered."""
        self._running = asyncio.create_task(self.serve([self._listener]))
        while not self.started and not self._running.done():
            await asyncio.sleep(0.01)
        if self._running.done():
            self._running.result()

    async def stop(self) -> None:
        """Takes no more connections, and gives open requests ``drain_seconds`` to finish."""
        self.should_exit = True
        await self._running

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the process's signals to the owner, where uvicorn would take them."""
        yield


class _Protocol(HttpToolsProtocol):
    """Hands the names in a client's certificate to the middleware, in the ASGI scope's state."""

    _head_bytes = 0

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        self._count(url)
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        self._count(name + value)
        super().on_header(name, value)

    def _count(self, data: bytes) -> None:
        """Refuses a head that is too large; what is raised here becomes 400 and ends the
        connection."""
        self._head_bytes += len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            raise ValueError("the head of the request is too large")

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        names = certificate_names(transport.get_extra_info("peercert"))
        self.app_state = {**self.app_state, "certificate": names}


async def start_http(
    pipeline: Pipeline,
    access: Access,
    settings: HttpSettings,
    certificate: Reloaded[Certificate] | None,
    *more: APIRouter,
) -> HttpServer | None:
    """Starts the HTTP server, with ``more`` routes; returns None where HTTP is turned off.

    Raises `StartError` for a port that is taken.
    """
    if not settings.http_listen:
        return None
    secret = pipeline.webhook_secret_file
    hooks = [webhook.routes(pipeline, secret)] if secret else []
    app = build_app(pipeline, access, settings, Fetcher(settings, pipeline.limits), *hooks)
    context = http_context(certificate) if certificate else None
    listener = bind(settings.http_listen)
    http = HttpServer(app, listener, context, settings, pipeline.settings.drain_seconds)
    await http.start()
    return http
