"""Around every gRPC call: a request id, the `Access`, errors to statuses."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from vlm2vec_service.errors import ExhaustedError, InvalidInputError, ServeError
from vlm2vec_service.frontend.access import REQUEST_ID, Access, Call
from vlm2vec_service.frontend.auth.authenticator import Credentials
from vlm2vec_service.frontend.forwarding import Headers
from vlm2vec_service.frontend.grpc.elements import MessageLimits, check_message
from vlm2vec_service.frontend.parsing import SMALL, parsed

SCOPES = {
    "/vlm2vec.v1.EmbeddingService/": "embed",
    "/vlm2vec.v1.AdapterService/List": "adapters:read",
    "/vlm2vec.v1.AdapterService/Describe": "adapters:read",
    "/vlm2vec.v1.AdapterService/Watch": "adapters:read",
    "/vlm2vec.v1.AdapterService/": "adapters:write",
}
"""What a caller needs for a method, by the first prefix that fits."""
INFRASTRUCTURE = {"/grpc.health.": "health", "/grpc.reflection.": "reflection"}
"""For any caller, or for all the world; served while draining, and not logged: probes would fill
the log."""
MOST_STATUS_BYTES = 2000
"""Of a status's message, so that it fits into trailers of 8 KiB, percent-encoded, with the rest."""


def retry_trailer(error: ServeError) -> tuple[tuple[str, str], ...]:
    """The ``retry-after-ms`` trailer, where waiting helps."""
    if error.retry_after is None:
        return ()
    return (("retry-after-ms", str(max(1, round(error.retry_after * 1000)))),)


def metadata(context: Any) -> Headers:
    """What came with the call. gRPC makes it anew each time that it is asked."""
    pairs = context.invocation_metadata() or ()
    return lambda name: [value for key, value in pairs if key == name and isinstance(value, str)]


def credentials(context: Any, headers: Headers) -> Credentials:
    """What came with the call, whose metadata are ``headers``."""
    values = headers("authorization")
    # Two are no credential: a proxy may have looked at the other one.
    authorization = values[0] if len(values) == 1 else ""
    auth = context.auth_context()
    names = (
        *auth.get("x509_subject_alternative_name", ()),
        *auth.get("x509_common_name", ()),
    )
    return Credentials(authorization, tuple(name.decode(errors="replace") for name in names))


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler, and reads what a caller sends once the caller was let in.

    A message that is large is checked against ``limits`` before it is parsed. A call that sends one
    message holds its bytes until it is answered; a stream has to hold by itself what it reads.
    """

    def __init__(self, access: Access, limits: MessageLimits) -> None:
        self.access = access
        self.limits = limits
        self._wrapped: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self.watching = 0
        """Streams of health and reflection under way."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler, wrapped: to gRPC, whose own unary handlers read before anybody is
        asked, each call streams requests."""
        method = handler_call_details.method
        if method not in self._wrapped:
            handler = await continuation(handler_call_details)
            if handler is None:
                return None
            self._wrapped[method] = self._wrap(handler, method)
        return self._wrapped[method]

    def _wrap(self, handler: Any, method: str) -> grpc.RpcMethodHandler[Any, Any]:
        around = self._around(method)
        read = functools.partial(self._read, handler.request_deserializer)

        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream

            async def stream(_: Any, context: Any) -> AsyncIterator[Any]:
                async with around(context, True) as call:
                    if handler.request_streaming:
                        request: Any = _Requests(lambda: read(context))
                    else:
                        request = await _only(read(context, call))
                    async for response in inner(request, context):
                        yield response
                        del response  # the next may be hours away

            streaming: grpc.RpcMethodHandler[Any, Any] = grpc.stream_stream_rpc_method_handler(
                stream, None, handler.response_serializer
            )
            return streaming

        async def unary(_: Any, context: Any) -> Any:
            async with around(context, False) as call:
                return await handler.unary_unary(await _only(read(context, call)), context)

        wrapped: grpc.RpcMethodHandler[Any, Any] = grpc.stream_unary_rpc_method_handler(
            unary, None, handler.response_serializer
        )
        return wrapped

    async def _read(self, deserialize: Any, context: Any, holder: Call | None = None) -> Any:
        """Reads the next request, and parses it with the ``FromString`` of its type; None at the
        end. Its bytes are held by ``holder``. Raises `InvalidInputError`, and what `Call.hold`
        raises."""
        data = await context.read()
        if data is grpc.aio.EOF:
            return None
        if holder is not None:
            holder.hold(len(data), "request")

        def parse() -> Any:
            if len(data) > SMALL:
                check_message(data, deserialize.__self__.DESCRIPTOR, self.limits)
            try:
                return deserialize(data)
            except Exception as error:  # protobuf's own, which varies with its backend
                raise InvalidInputError(
                    "request", f"not in the API's protobuf format: {error}"
                ) from error

        return await parsed(parse, len(data))

    def _around(self, method: str) -> Callable[[Any, bool], Any]:
        """What to enter around a call of ``method``."""
        access = self.access
        for prefix, part in INFRASTRUCTURE.items():
            if method.startswith(prefix):
                is_open = not access.authenticator.required or part in access.authenticator.open
                return lambda context, stream: _Known(self, context, is_open, stream)
        scopes = (scope for prefix, scope in SCOPES.items() if method.startswith(prefix))
        scope = next(scopes, "adapters:write")
        name = method.rpartition("/")[2]
        return lambda context, stream: _Around(access, name, method, context, scope, stream)


class _Requests:
    """The requests of a stream, none of which it keeps: the next may be hours away."""

    def __init__(self, read: Callable[[], Awaitable[Any]]) -> None:
        self.read = read

    def __aiter__(self) -> _Requests:
        return self

    async def __anext__(self) -> Any:
        request = await self.read()
        if request is None:
            raise StopAsyncIteration
        return request


async def _only(request: Awaitable[Any]) -> Any:
    """The one request of a call. Raises `InvalidInputError` where there is none."""
    found = await request
    if found is None:
        raise InvalidInputError("request", "missing")
    return found


async def _abort(context: Any, error: ServeError, *trailers: tuple[str, str]) -> None:
    """Ends the call with the status that the error stands for."""
    text = str(error).encode(errors="replace")[:MOST_STATUS_BYTES].decode(errors="ignore")
    await context.abort(grpc.StatusCode[error.code.name], text, trailers)


class _Known:
    """Lets any caller with a credential through, and no other, unless it is ``is_open``; of streams
    no more at once than there may be of other calls."""

    def __init__(self, interceptor: Interceptor, context: Any, is_open: bool, stream: bool) -> None:
        self.interceptor = interceptor
        self.context = context
        self.is_open = is_open
        self.stream = stream

    async def __aenter__(self) -> None:
        access = self.interceptor.access
        try:
            if not self.is_open:
                access.authenticator.identify(credentials(self.context, metadata(self.context)))
            if self.stream and self.interceptor.watching >= access.max_calls:
                raise ExhaustedError(
                    f"{self.interceptor.watching} streams of health and reflection are under way "
                    f"(max_calls {access.max_calls})",
                    retry_after=1.0,
                )
        except ServeError as error:
            await _abort(self.context, error, *retry_trailer(error))
        self.interceptor.watching += self.stream

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.interceptor.watching -= self.stream
        if isinstance(error, ServeError):
            await _abort(self.context, error)


class _Around:
    """The span of one call."""

    def __init__(
        self, access: Access, method: str, path: str, context: Any, scope: str, stream: bool
    ) -> None:
        self.access = access
        self.context = context
        self.scope = scope
        self.stream = stream
        self.headers = metadata(context)
        self.call = access.start(method, context.peer() or "", self.headers, path)

    async def __aenter__(self) -> Call:
        self.context.set_trailing_metadata(((REQUEST_ID, self.call.id),))
        try:
            shown = credentials(self.context, self.headers)
            self.access.check(self.call, shown, self.scope, self.stream)
        except ServeError as error:
            await self._finish(error)
        return self.call

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        del trace  # gRPC keeps the error that ends the call, and with it this frame
        await self._finish(error)

    async def _finish(self, error: BaseException | None) -> None:
        # Whoever aborts by itself has told the caller.
        known = asyncio.CancelledError() if isinstance(error, grpc.aio.AbortError) else error
        shown = self.access.finish(self.call, known, self.stream)
        if shown is not None:
            await _abort(self.context, shown, (REQUEST_ID, self.call.id), *retry_trailer(shown))
