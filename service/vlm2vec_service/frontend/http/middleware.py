"""The middleware around every HTTP request: access, the body within limits, errors to answers."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from vlm2vec_service import tracing
from vlm2vec_service.errors import ServeError, UnavailableError
from vlm2vec_service.frontend.access import REQUEST_ID, Access, Call, let_go
from vlm2vec_service.frontend.auth.authenticator import Credentials
from vlm2vec_service.frontend.http.errors import (
    RequestError,
    error_body,
    error_headers,
    renamed,
)
from vlm2vec_service.settings import HttpSettings

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SCOPES = {
    "/v1/embeddings": "embed", "/v1/rerank": "embed", "/v2/rerank": "embed", "/v1/models": "embed",
    "/v1/adapters/preload": "adapters:write", "/v1/adapters/unload": "adapters:write",
    "/v1/adapters": "adapters:read",
}  # fmt: skip
"""The scope that a caller needs for a path and those below it, by the first that fits."""
INFRASTRUCTURE = {
    "/healthz": "health", "/readyz": "health", "/health": "health", "/metrics": "metrics",
    "/openapi.json": "reflection", "/docs": "reflection",
}  # fmt: skip
"""Paths by the word of ``--without-credential`` that opens them to everybody. They need no scope
and are not logged: probes would fill the log."""
SIGNED = {"/webhooks/mlflow"}
"""Paths whose handlers see for themselves who calls, by a signature in the request."""
MAX_NOTICE_BYTES = 1_048_576
"""Bytes of a body with a signature, which takes its time to check and may come from anybody."""
COPIES = 4
"""How often a body is in memory while it is answered: as it came and as the framework gives it on,
as JSON, and as the media that base64 was in it."""


class Middleware:
    """ASGI middleware: lets a request in as `Access` says, reads its body, and runs ``app``.

    Whatever is raised on the way becomes an answer in JSON.
    """

    def __init__(self, app: App, access: Access, settings: HttpSettings) -> None:
        self.app = app
        self.access = access
        self.settings = settings

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answers one request; the ASGI server calls this for each."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        path: str = scope["path"]
        if part := INFRASTRUCTURE.get(path):
            await self._infrastructure(part, scope, receive, send)
            return
        known = [name for name in (*SCOPES, *SIGNED) if path == name or path.startswith(name + "/")]
        method = known[0] if known else "other"
        call = self.access.start(method, _peer(scope), _header(scope, REQUEST_ID.encode()))
        answer = _Answer(call, send)
        error: BaseException | None = None
        try:
            _check_connection(scope)
            with tracing.http_span(method, scope["headers"]):
                if method not in SIGNED:
                    self.access.check(call, _credentials(scope), SCOPES.get(method, ""))
                body = await self._body(call, scope, receive)
                await self._run(scope, body, receive, answer)
        except ServeError as caught:
            error = renamed(caught)
            let_go(caught)
        except Exception as caught:  # noqa: BLE001 (every request gets an answer)
            error = caught
        except asyncio.CancelledError as caught:
            error = caught
        shown = self.access.finish(call, error)
        if shown is not None and not answer.started:
            await answer.error(shown)
        if isinstance(error, asyncio.CancelledError) and not isinstance(error, _Gone):
            raise error

    async def _infrastructure(
        self, part: str, scope: Message, receive: Receive, send: Send
    ) -> None:
        authenticator = self.access.authenticator
        try:
            if part not in authenticator.open:
                authenticator.identify(_credentials(scope))
            await self.app(scope, receive, send)
        except ServeError as error:
            await _Answer(None, send).error(error)

    async def _body(self, call: Call, scope: Message, receive: Receive) -> bytearray:
        """Reads the whole body, for which ``call`` holds memory: all that it is said to be, before
        it is read, or as it comes. Raises `RequestError` if it is too large or too slow, and what
        `Call.hold` raises."""
        limit, most = "http_max_body_bytes", self.settings.http_max_body_bytes
        if call.method in SIGNED:
            limit, most = "what a notice may have", min(most, MAX_NOTICE_BYTES)
        length = _header(scope, b"content-length")
        # A number too long for Python to read is too large for anything here.
        size = int(length[:19]) if length.isdecimal() else 0
        body = bytearray()  # which grows in place; to join pieces in the end would take a moment
        try:
            async with asyncio.timeout(self.settings.http_body_seconds):
                more, held = True, 0
                while True:
                    size = max(size, len(body))
                    if size > most:
                        raise RequestError(413, "body", f"more than {limit}, {most}")
                    if size > held:
                        call.hold(COPIES * (size - held), "body")
                        held = size
                    if not more:
                        break
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
        except TimeoutError as error:
            seconds = self.settings.http_body_seconds
            raise RequestError(
                408, "body", f"not there after http_body_seconds, {seconds:g}"
            ) from error
        return body

    async def _run(self, scope: Message, body: bytearray, receive: Receive, send: Send) -> None:
        """Runs the application until it has answered; a caller who leaves cancels it."""
        sent = False

        async def replay() -> Message:
            nonlocal sent
            if sent:
                await asyncio.Event().wait()  # `left` sees a caller who leaves
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def left() -> None:
            while (await receive())["type"] != "http.disconnect":
                pass

        answered = asyncio.ensure_future(self.app(scope, replay, send))
        gone = asyncio.ensure_future(left())
        try:
            await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not answered.done():
                raise _Gone
            answered.result()
        finally:
            answered.cancel()
            gone.cancel()


class _Gone(asyncio.CancelledError):
    """The caller has closed the connection."""


class _Answer:
    """Sends an answer on its way through ``send``, with the request's id in a header."""

    def __init__(self, call: Call | None, send: Send) -> None:
        self.call = call
        self.send = send
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.started = True
            if self.call:
                message["headers"] = [
                    *message.get("headers", ()), (REQUEST_ID.encode(), self.call.id.encode())
                ]  # fmt: skip
        await self.send(message)

    async def error(self, error: ServeError) -> None:
        """Sends a whole answer that says what is wrong."""
        body = error_body(error)
        headers = error_headers(error) | {"content-length": str(len(body))}
        await self(
            {
                "type": "http.response.start",
                "status": error.http_status,
                "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
            }
        )
        await self({"type": "http.response.body", "body": body})


def _header(scope: Message, name: bytes) -> str:
    """The value of a header; empty where the header is missing, or there twice."""
    values = [value for key, value in scope["headers"] if key == name]
    return str(values[0].decode("latin-1")) if len(values) == 1 else ""


def _check_connection(scope: Message) -> None:
    """Raises `UnavailableError` for a request on a connection that is one too many."""
    if most := scope.get("state", {}).get("max_connections"):
        raise UnavailableError(
            f"too many connections are open (max_connections {most})", retry_after=1.0
        )


def _credentials(scope: Message) -> Credentials:
    names = scope.get("state", {}).get("certificate", ())
    return Credentials(_header(scope, b"authorization"), names)


def _peer(scope: Message) -> str:
    """The caller's address, as gRPC writes it."""
    host, port = scope.get("client") or ("", 0)
    if not host:
        return "unix:"
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
