"""Around every call: a request id, errors to statuses, metrics, one line of access log."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc

from vlm2vec_service.errors import UnavailableError, Vlm2vecError
from vlm2vec_service.metrics import Metrics

access = logging.getLogger("vlm2vec.access")
log = logging.getLogger(__name__)

CODES = {code.value[0]: code for code in grpc.StatusCode}
REQUEST_ID = "x-request-id"
OPEN_METHODS = ("/grpc.health.", "/grpc.reflection.")
"""Served while draining, and not logged: probes would fill the log."""

request_id: contextvars.ContextVar[str] = contextvars.ContextVar("request_id", default="")


def retry_trailer(error: Vlm2vecError) -> tuple[tuple[str, str], ...]:
    """The ``retry-after-ms`` trailer, where waiting helps."""
    if error.retry_after is None:
        return ()
    return (("retry-after-ms", str(max(1, round(error.retry_after * 1000)))),)


def public(error: Exception, id: str) -> Vlm2vecError:
    """The error as a caller may see it: one of ours as it is, any other without its details."""
    if isinstance(error, Vlm2vecError):
        return error
    log.exception("request %s failed", id, exc_info=error)
    return Vlm2vecError(f"internal error; quote request id {id}")


class Interceptor(grpc.aio.ServerInterceptor):
    """Wraps every handler; see the module. ``draining`` refuses new calls once it is set."""

    def __init__(self, metrics: Metrics, draining: asyncio.Event) -> None:
        self.metrics = metrics
        self.draining = draining

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Returns the handler, wrapped."""
        handler: Any = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method.startswith(OPEN_METHODS):
            return handler  # type: ignore[no-any-return]
        if handler.response_streaming:
            inner = handler.stream_stream or handler.unary_stream

            async def stream(request: Any, context: Any) -> AsyncIterator[Any]:
                async with self._around(method, context):
                    async for response in inner(request, context):
                        yield response

            make: Any = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            streaming: grpc.RpcMethodHandler[Any, Any] = make(
                stream, handler.request_deserializer, handler.response_serializer
            )
            return streaming

        async def unary(request: Any, context: Any) -> Any:
            async with self._around(method, context):
                return await handler.unary_unary(request, context)

        wrapped: grpc.RpcMethodHandler[Any, Any] = grpc.unary_unary_rpc_method_handler(
            unary, handler.request_deserializer, handler.response_serializer
        )
        return wrapped

    def _around(self, method: str, context: Any) -> _Around:
        return _Around(self, method.rpartition("/")[2], context)


class _Around:
    """The span of one call."""

    def __init__(self, interceptor: Interceptor, method: str, context: Any) -> None:
        self.interceptor = interceptor
        self.metrics = interceptor.metrics
        self.method = method
        self.context = context

    async def __aenter__(self) -> None:
        self.started = time.monotonic()
        metadata = dict(self.context.invocation_metadata() or ())
        given = metadata.get(REQUEST_ID, "")
        self.id = given if 0 < len(given) <= 128 and given.isprintable() else uuid.uuid4().hex
        request_id.set(self.id)
        self.context.set_trailing_metadata(((REQUEST_ID, self.id),))
        self.metrics.in_flight.labels(self.method).inc()
        if self.interceptor.draining.is_set():
            error = UnavailableError("the server is shutting down; try another", retry_after=0.1)
            await self._finish(error)

    async def __aexit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        await self._finish(error)

    async def _finish(self, error: BaseException | None) -> None:
        code = grpc.StatusCode.OK
        shown: Vlm2vecError | None = None
        if isinstance(error, Exception) and not isinstance(error, grpc.aio.AbortError):
            shown = public(error, self.id)
            code = CODES[shown.grpc_code]
        elif error is not None:
            code = grpc.StatusCode.CANCELLED
        seconds = time.monotonic() - self.started
        self.metrics.in_flight.labels(self.method).dec()
        self.metrics.requests.labels(self.method, code.name).inc()
        if code != grpc.StatusCode.CANCELLED and self.method != "EmbedStream":
            self.metrics.seconds.labels(self.method).observe(seconds)
        access.info(
            "%s %s %.1f ms",
            self.method,
            code.name,
            seconds * 1000,
            extra={
                "method": self.method, "code": code.name, "seconds": round(seconds, 6),
                "request_id": self.id, "peer": self.context.peer(),
                **({"error": str(shown)} if shown else {}),
            },
        )  # fmt: skip
        if shown is not None:
            trailers = ((REQUEST_ID, self.id), *retry_trailer(shown))
            await self.context.abort(code, str(shown), trailers)
