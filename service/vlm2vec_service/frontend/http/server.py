"""The HTTP server, in the event loop of the front end beside gRPC."""

import asyncio
import contextlib
import functools
import logging
import socket
import ssl
from collections.abc import Iterator
from typing import Any

import uvicorn
from fastapi import APIRouter, FastAPI
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from vlm2vec_service.addresses import bind
from vlm2vec_service.frontend.access import Access
from vlm2vec_service.frontend.http import webhook
from vlm2vec_service.frontend.http.app import build_app
from vlm2vec_service.frontend.http.fetch import Fetcher
from vlm2vec_service.frontend.http.peers import Peers
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.frontend.tls import Certificate, certificate_names, http_context
from vlm2vec_service.settings import HttpSettings

MAX_HEAD_BYTES = 65_536
"""Bytes of a request's URL and headers; more are no request."""
MAX_PIPELINED = 32
"""Requests that a connection may send ahead of the answers."""
EXCESS_SECONDS = 5
"""How long a connection may be silent that is one too many."""
LAST_WORDS_SECONDS = 1.0
"""How long the requests that are cut off at the end may take to answer that they are."""
BACKLOG = 256
"""Connections that are accepted at once, before the event loop does anything else."""


class HttpServer(uvicorn.Server):
    """Uvicorn's server, started and stopped by its owner, who handles the process's signals."""

    def __init__(
        self,
        app: FastAPI,
        listener: socket.socket,
        context: ssl.SSLContext | None,
        settings: HttpSettings,
        drain_seconds: float,
        max_connections: int,
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
            backlog=BACKLOG,
        )
        config.load()
        config.http_protocol_class = functools.partial(  # type: ignore[assignment]
            _Protocol, max_connections=max_connections
        )
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
        if self.server_state.tasks:  # cancelled, and about to say so to their callers
            await asyncio.wait(self.server_state.tasks, timeout=LAST_WORDS_SECONDS)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the process's signals to the owner, where uvicorn would take them."""
        yield


class _Protocol(HttpToolsProtocol):
    """Closes connections that send no request, and hands to the middleware, in the ASGI scope's
    state: the names in a client's certificate, and the limit of connections if it is passed."""

    _head_bytes = 0
    _head_timer: asyncio.TimerHandle | None = None

    def __init__(self, *args: Any, max_connections: int, **values: Any) -> None:
        super().__init__(*args, **values)
        self._max_connections = max_connections

    def on_message_begin(self) -> None:
        self._head_bytes = 0
        self._expect_head()
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

    def on_headers_complete(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("too many requests ahead of the answers")
        self._stop_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_head()

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        names = certificate_names(transport.get_extra_info("peercert"))
        self.app_state = {**self.app_state, "certificate": names}
        if len(self.connections) > self._max_connections:
            self.app_state["max_connections"] = self._max_connections
            self.timeout_keep_alive = min(self.timeout_keep_alive, EXCESS_SECONDS)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        """Closes the connection unless the head of a request is there in time."""
        self._stop_timer()
        self._head_timer = self.loop.call_later(self.timeout_keep_alive, self._close_if_idle)

    def _stop_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()

    def _close_if_idle(self) -> None:
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()


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
    peers = Peers(pipeline.webhook_peers) if pipeline.webhook_peers else None
    hooks = [webhook.routes(pipeline, secret, peers)] if secret else []
    app = build_app(pipeline, access, settings, Fetcher(settings, pipeline.limits), *hooks)
    context = http_context(certificate) if certificate else None
    listener = bind(settings.http_listen, shared=pipeline.member is not None)
    server = pipeline.settings
    http = HttpServer(
        app, listener, context, settings, server.drain_seconds, server.max_connections
    )
    await http.start()
    return http
