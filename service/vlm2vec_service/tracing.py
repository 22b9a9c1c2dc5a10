"""OpenTelemetry, where it is wanted: one trace from the caller to the worker.

On when ``OTEL_EXPORTER_OTLP_ENDPOINT`` is set and the extra ``tracing`` is installed; the other
standard ``OTEL_`` variables work as everywhere. A batch has spans of many requests in it: its own
span belongs to the trace of the one that was queued first.
"""

import logging
import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

log = logging.getLogger(__name__)

ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


def configure(name: str) -> None:
    """Starts exporting the spans of this process, called ``name`` unless ``OTEL_SERVICE_NAME`` says
    otherwise. Without the extra it says what to install, and goes on."""
    if not os.environ.get(ENDPOINT):
        return
    try:
        from opentelemetry import trace
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        log.warning("%s is set, but not vlm2vec-serve[tracing] installed: no traces", ENDPOINT)
        del os.environ[ENDPOINT]
        return
    name = os.environ.get("OTEL_SERVICE_NAME", name)
    provider = TracerProvider(resource=Resource.create({"service.name": name}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    trace.set_tracer_provider(provider)


def frontend_interceptors() -> list[Any]:
    """For the front end's server; none where tracing is off."""
    if not os.environ.get(ENDPOINT):
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor, filters

    return [aio_server_interceptor(filter_=filters.negate(filters.health_check()))]


def http_span(name: str, headers: Iterable[tuple[bytes, bytes]]) -> AbstractContextManager[Any]:
    """The span of a request over HTTP, in the caller's trace; nothing where tracing is off."""
    if not os.environ.get(ENDPOINT):
        return nullcontext()
    from opentelemetry import propagate, trace

    carrier = {key.decode("latin-1"): value.decode("latin-1") for key, value in headers}
    tracer = trace.get_tracer("vlm2vec_service")
    return tracer.start_as_current_span(
        name, context=propagate.extract(carrier), kind=trace.SpanKind.SERVER
    )


def channel_interceptors() -> list[Any]:
    """For the front end's channels to its workers."""
    if not os.environ.get(ENDPOINT):
        return []
    from opentelemetry.instrumentation.grpc import aio_client_interceptors

    return list(aio_client_interceptors())


def worker_interceptors() -> list[Any]:
    """For a worker's server."""
    if not os.environ.get(ENDPOINT):
        return []
    from opentelemetry.instrumentation.grpc import aio_server_interceptor

    return [aio_server_interceptor()]
