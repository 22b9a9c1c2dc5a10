"""The front-end process: workers, gRPC and HTTP, until SIGTERM, and then what was accepted."""

import asyncio
import functools
import logging
import signal

import grpc
from grpc_health.v1 import health, health_pb2_grpc

from vlm2vec.v1 import adapters_pb2, adapters_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from vlm2vec_service import tracing
from vlm2vec_service.addresses import allow_connections
from vlm2vec_service.allocator import keep_for_ever, trim_regularly, unmap_large_blocks
from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.credentials import Exposure, follow_files, open_access
from vlm2vec_service.frontend.grpc.adapters import AdapterServicer, SiblingServicer
from vlm2vec_service.frontend.grpc.elements import MessageLimits
from vlm2vec_service.frontend.grpc.embedding import EmbeddingServicer
from vlm2vec_service.frontend.grpc.health import HealthServicer
from vlm2vec_service.frontend.grpc.interceptor import Interceptor
from vlm2vec_service.frontend.grpc.reflection import add_reflection
from vlm2vec_service.frontend.http.server import start_http
from vlm2vec_service.frontend.loop import watch_loop
from vlm2vec_service.frontend.metrics_server import start_metrics
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.frontend.running import Running
from vlm2vec_service.frontend.tls import Certificate, grpc_credentials
from vlm2vec_service.processes.exposition import answer_metrics
from vlm2vec_service.settings import ServerSettings
from vlm2vec_service.tasks import supervised

log = logging.getLogger(__name__)

HANDSHAKE_MILLISECONDS = 20_000
"""How long a connection may take over TLS and HTTP/2's first frames."""
LONGEST = 8
"""A string of so many times ``max_text_bytes`` is not even parsed; shorter ones are refused where
they stand, which a stream survives."""


async def _load_first(pipeline: Pipeline) -> None:
    """Has the versions that are known now loaded by the workers that start."""
    for served in pipeline.served.values():
        for version in list(served.model.versions.values()):
            await served.loader.ensure(version)
        if served.follower is not None:
            await served.follower.step()


async def serve(pipeline: Pipeline, exposure: Exposure = Exposure()) -> None:  # noqa: B008
    """Serves until SIGTERM or SIGINT, then finishes what was accepted."""
    unmap_large_blocks()
    trim_regularly(collect=True)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = pipeline.settings
    allow_connections(2 * settings.max_connections)
    access, certificate = open_access(pipeline, exposure)
    limits = MessageLimits(settings.max_elements, LONGEST * pipeline.limits.max_text_bytes)
    server = grpc.aio.server(
        interceptors=[*tracing.frontend_interceptors(), Interceptor(access, limits)],
        options=channel_options(settings, pipeline.member is not None),
    )
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(EmbeddingServicer(pipeline), server)
    adapters_pb2_grpc.add_AdapterServiceServicer_to_server(AdapterServicer(pipeline), server)
    names = [
        embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,
        adapters_pb2.DESCRIPTOR.services_by_name["AdapterService"].full_name,
    ]
    healthy = HealthServicer(names, pipeline.served)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    add_reflection((*names, health.SERVICE_NAME), server)
    _listen(server, settings.listen, certificate)
    if pipeline.member is not None:
        answer_metrics(pipeline.member.folder, str(pipeline.member.number))
    if settings.metrics_listen:
        start_metrics(settings.metrics_listen, access.authenticator, certificate)
    http = await start_http(pipeline, access, exposure.http, certificate)
    watching = supervised("loop", functools.partial(watch_loop, pipeline.metrics), pipeline.metrics)
    stopping = asyncio.create_task(stop.wait())
    starting = asyncio.create_task(_load_first(pipeline))
    await asyncio.wait({starting, stopping}, return_when=asyncio.FIRST_COMPLETED)
    running = Running(pipeline, healthy)
    supervisors: list[asyncio.Task[None]] = [watching]
    siblings: grpc.aio.Server | None = None
    if starting.done():
        starting.result()
        keep_for_ever()
        running.start()
        supervisors += follow_files(access, exposure.auth, certificate)
        await server.start()
        siblings = await _answer_siblings(pipeline)
        addresses = " and ".join(filter(None, (settings.listen, exposure.http.http_listen)))
        log.info("serving %s on %s", ", ".join(pipeline.served), addresses)
        await stopping

    log.info("draining: at most %.0f s", settings.drain_seconds)
    pipeline.draining.set()
    healthy.close()
    await asyncio.gather(server.stop(settings.drain_seconds), *([http.stop()] if http else []))
    for task in (starting, *supervisors):
        task.cancel()
    await asyncio.gather(*supervisors, running.stop(), return_exceptions=True)
    for served in pipeline.served.values():
        served.scheduler.close()
    if siblings is not None:
        await siblings.stop(None)
    log.info("stopped")


async def _answer_siblings(pipeline: Pipeline) -> grpc.aio.Server | None:
    """Answers the other front-end processes, where there are some; the owner sees by the socket
    that this one listens."""
    member = pipeline.member
    if member is None:
        return None
    server = grpc.aio.server()
    adapters_pb2_grpc.add_AdapterServiceServicer_to_server(SiblingServicer(pipeline), server)
    server.add_insecure_port(f"unix:{member.socket_of(member.number)}")
    await server.start()
    return server


def _listen(
    server: grpc.aio.Server, address: str, certificate: Reloaded[Certificate] | None
) -> None:
    """Takes gRPC's port. Raises `StartError` naming it if it is not to be had."""
    try:
        if certificate is None:
            server.add_insecure_port(address)
        else:
            server.add_secure_port(address, grpc_credentials(certificate))
    except RuntimeError as error:
        raise StartError(f"cannot listen on {address}") from error


def channel_options(settings: ServerSettings, shared: bool = False) -> list[tuple[str, int]]:
    """The options of gRPC's server, by the names that gRPC gives them: it ignores any other. Its
    port may be ``shared`` with other processes."""
    milliseconds = int(settings.keepalive_seconds * 1000)
    options = [
        ("grpc.max_allowed_incoming_connections", settings.max_connections),
        ("grpc.max_concurrent_streams", settings.max_connection_streams),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MILLISECONDS),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A client that pings more often is cut off; gRPC's own 5 minutes would cut off most.
        ("grpc.http2.min_ping_interval_without_data_ms", 1_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Nothing compressed: a megabyte of it may be a gigabyte, before anybody asked who sent it.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        # Two front ends must not share a port by accident.
        ("grpc.so_reuseport", int(shared)),
    ]
    if settings.connection_idle_seconds:
        idle = int(settings.connection_idle_seconds * 1000)
        options.append(("grpc.max_connection_idle_ms", idle))
    if settings.max_connection_age_seconds:
        age = int(settings.max_connection_age_seconds * 1000)
        grace = int(settings.drain_seconds * 1000)
        options += [
            ("grpc.max_connection_age_ms", age),
            ("grpc.max_connection_age_grace_ms", grace),
        ]
    return options
