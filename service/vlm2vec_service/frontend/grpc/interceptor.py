"""Around every gRPC call: a request id, the `Access`, errors to statuses."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from vlm2vec_service.errors import InvalidInputError, ServeError
from vlm2vec_service.frontend.access import REQUEST_ID, Access
from vlm2vec_service.frontend.auth.authenticator import Credentials
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


def credentials(context: Any) -> Credentials:
    """What came with the call."""
    values = [v for key, v in context.invocation_metadata() or () if key == "authorization"]
    # Two are no credential: a proxy may have looked at the other one.
    authorization = values[0] if len(values) == 1 and isinstance(values[0], str) else ""
    auth = context.auth_context()
    names = (
        *auth.get("x509_subject_alternative_name", ()),
        *auth.get("x509_common_name", ()),
    )
    return Credentials(authorization, tuple(name.decode(errors="replace") for name in names))


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler, and parses what a caller sends once the caller was let in.

    A message that is large is checked against ``limits`` before.
    """

    def __init__(self, access: Access, limits: MessageLimits) -> None:
        self.access = access
        self.limits = limits

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler, wrapped: it takes requests as bytes."""
        handler: Any = await continuation(handler_call_details)
        if handler is None:
            return None
        around = self._around(handler_call_details.method)
        parse = functools.partial(self._parse, handler.request_deserializer)

        async def parse_all(requests: AsyncIterator[bytes]) -> AsyncIterator[Any]:
            async for data in requests:
                yield await parse(data)

        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream

            async def stream(sent: Any, context: Any) -> AsyncIterator[Any]:
                async with around(context, True):
                    request = parse_all(sent) if handler.request_streaming else await parse(sent)
                    async for response in inner(request, context):
                        yield response

            make: Any = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            streaming: grpc.RpcMethodHandler[Any, Any] = make(
                stream, None, handler.response_serializer
            )
            return streaming

        async def unary(sent: bytes, context: Any) -> Any:
            async with around(context, False):
                return await handler.unary_unary(await parse(sent), context)

        wrapped: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            unary, None, handler.response_serializer
        )
        return wrapped

    async def _parse(self, deserialize: Any, data: bytes) -> Any:
        """Parses a request with the ``FromString`` of its type. Raises `InvalidInputError`."""

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
                return lambda context, stream: _Known(access, context, is_open)
        scopes = (scope for prefix, scope in SCOPES.items() if method.startswith(prefix))
        scope = next(scopes, "adapters:write")
        name = method.rpartition("/")[2]
        return lambda context, stream: _Around(access, name, context, scope, stream)


async def _abort(context: Any, error: ServeError, *trailers: tuple[str, str]) -> None:
    """Ends the call with the status that the error stands for."""
    text = str(error).encode(errors="replace")[:MOST_STATUS_BYTES].decode(errors="ignore")
    await context.abort(grpc.StatusCode[error.code.name], text, trailers)


class _Known:
    """Lets any caller with a credential through, and no other, unless it is ``is_open``."""

    def __init__(self, access: Access, context: Any, is_open: bool) -> None:
        self.access = access
        self.context = context
        self.is_open = is_open

    async def __aenter__(self) -> None:
        if self.is_open:
            return
        try:
            self.access.authenticator.identify(credentials(self.context))
        except ServeError as error:
            await _abort(self.context, error)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ServeError):
            await _abort(self.context, error)


class _Around:
    """The span of one call."""

    def __init__(self, access: Access, method: str, context: Any, scope: str, stream: bool) -> None:
        self.access = access
        self.context = context
        self.scope = scope
        self.stream = stream
        metadata = dict(context.invocation_metadata() or ())
        self.call = access.start(method, context.peer() or "", str(metadata.get(REQUEST_ID, "")))

    async def __aenter__(self) -> None:
        self.context.set_trailing_metadata(((REQUEST_ID, self.call.id),))
        try:
            self.access.check(self.call, credentials(self.context), self.scope, self.stream)
        except ServeError as error:
            await self._finish(error)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._finish(error)

    async def _finish(self, error: BaseException | None) -> None:
        # Whoever aborts by itself has told the caller.
        known = asyncio.CancelledError() if isinstance(error, grpc.aio.AbortError) else error
        shown = self.access.finish(self.call, known, self.stream)
        if shown is not None:
            await _abort(self.context, shown, (REQUEST_ID, self.call.id), *retry_trailer(shown))
