"""The middleware around every HTTP request: access, the body within limits, errors to answers."""

import asyncio
import functools
from collections.abc import Awaitable, Callable

from vlm2vec_service import tracing
from vlm2vec_service.errors import ServeError, UnavailableError
from vlm2vec_service.frontend.access import REQUEST_ID, Access, Call, let_go
from vlm2vec_service.frontend.auth.authenticator import Credentials
from vlm2vec_service.frontend.http import pages
from vlm2vec_service.frontend.http.errors import error_body, error_headers, renamed
from vlm2vec_service.frontend.http.incoming import (
    Gone,
    Message,
    Receive,
    header,
    read_body,
    values_of,
)
from vlm2vec_service.settings import HttpSettings

Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SCOPES = {
    "/v1/embeddings": "embed", "/v1/embed": "embed", "/v2/embed": "embed", "/embed": "embed",
    "/v1/rerank": "embed", "/v2/rerank": "embed", "/rerank": "embed", "/v1/score": "embed",
    "/score": "embed", "/similarity": "embed", "/info": "embed", "/v1/models": "embed",
    "/v2/models": "embed", "/v2/models/infer": "embed",
    "/v1/adapters/preload": "adapters:write", "/v1/adapters/unload": "adapters:write",
    "/v1/adapters": "adapters:read",
}  # fmt: skip
"""The scope that a caller needs for a path and those below it, by the first that fits."""
INFRASTRUCTURE = {
    "/healthz": "health", "/readyz": "health", "/health": "health", "/startupz": "health",
    "/v2": "health", "/v2/health/live": "health", "/v2/health/ready": "health",
    "/metrics": "metrics",
    "/openapi.json": "reflection", **dict.fromkeys(pages.FILES, "pages"),
}  # fmt: skip
"""Paths by the word of ``--without-credential`` that opens them to everybody. They need no scope
and are not logged: probes would fill the log."""
ALIASES = {
    ("POST", "/"): "/embed",
    ("POST", "/embeddings"): "/v1/embeddings",
    ("GET", "/models"): "/v1/models",
}
"""What a path with a method stands for: clients of text-embeddings-inference know no path, they
and Infinity's OpenAI's without the version."""
SIGNED = {"/webhooks/mlflow"}
"""Paths whose handlers see for themselves who calls, by a signature in the request."""
MAX_NOTICE_BYTES = 1_048_576
"""Bytes of a body with a signature, which takes its time to check and may come from anybody."""


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
        if (scope["method"], scope["path"]) in ALIASES:
            scope = {**scope, "path": ALIASES[scope["method"], scope["path"]]}
        path: str = scope["path"]
        if part := INFRASTRUCTURE.get(path):
            await self._infrastructure(part, scope, receive, send)
            return
        method = _method(path)
        headers = functools.partial(values_of, scope)
        call = self.access.start(method, _peer(scope), headers, path, scope["method"])
        answer = _Answer(call, send, path)
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
        except Gone as caught:
            error = caught
            let_go(caught)
        except asyncio.CancelledError:  # by who stops the server: the time to drain is over
            error = UnavailableError("the server is shutting down; try another", retry_after=0.1)
        shown = self.access.finish(call, error)
        if shown is not None and not answer.started:
            await answer.error(shown)

    async def _infrastructure(
        self, part: str, scope: Message, receive: Receive, send: Send
    ) -> None:
        authenticator = self.access.authenticator
        try:
            if part not in authenticator.open:
                authenticator.identify(_credentials(scope))
            await self.app(scope, receive, send)
        except ServeError as error:
            await _Answer(None, send, scope["path"]).error(error)

    async def _body(self, call: Call, scope: Message, receive: Receive) -> bytearray:
        """Reads the whole body, within the limits of what ``call`` may send."""
        limit, most = "http_max_body_bytes", self.settings.http_max_body_bytes
        if call.method in SIGNED:
            limit, most = "what a notice may have", min(most, MAX_NOTICE_BYTES)
        seconds = self.settings.http_body_seconds
        return await read_body(call, scope, receive, most, limit, seconds)

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
                raise Gone
            answered.result()
        finally:
            answered.cancel()
            gone.cancel()


class _Answer:
    """Sends an answer to a request for ``path`` on its way through ``send``, with the request's id
    in a header."""

    def __init__(self, call: Call | None, send: Send, path: str) -> None:
        self.call = call
        self.send = send
        self.path = path
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
        body = error_body(error, self.path)
        headers = error_headers(error) | {"content-length": str(len(body))}
        await self(
            {
                "type": "http.response.start",
                "status": error.http_status,
                "headers": [(key.encode(), value.encode()) for key, value in headers.items()],
            }
        )
        await self({"type": "http.response.body", "body": body})


def _method(path: str) -> str:
    """What metrics and logs call a path: the part of it that no caller chooses."""
    known = [name for name in (*SCOPES, *SIGNED) if path == name or path.startswith(name + "/")]
    method = known[0] if known else "other"
    # Probes, which are quick, would hide how long it takes to embed.
    return "/v2/models/infer" if method == "/v2/models" and path.endswith("/infer") else method


def _check_connection(scope: Message) -> None:
    """Raises `UnavailableError` for a request on a connection that is one too many."""
    if most := scope.get("state", {}).get("max_connections"):
        raise UnavailableError(
            f"too many connections are open (max_connections {most})", retry_after=1.0
        )


def _credentials(scope: Message) -> Credentials:
    names = scope.get("state", {}).get("certificate", ())
    return Credentials(header(scope, "authorization"), names)


def _peer(scope: Message) -> str:
    """The caller's address, as gRPC writes it."""
    host, port = scope.get("client") or ("", 0)
    if not host:
        return "unix:"
    return f"ipv6:[{host}]:{port}" if ":" in host else f"ipv4:{host}:{port}"
