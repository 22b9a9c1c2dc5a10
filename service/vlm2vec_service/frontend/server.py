"""The front-end process: builds what is served, starts workers, gRPC and HTTP, drains on SIGTERM."""

import asyncio
import functools
import hashlib
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from vlm2vec.v1 import adapters_pb2, adapters_pb2_grpc, embedding_pb2, embedding_pb2_grpc
from vlm2vec_registry.cache import Cache
from vlm2vec_registry.space import base_digest
from vlm2vec_registry.store import CHAMPION, PublishedVersion, Registry
from vlm2vec_service import tracing
from vlm2vec_service.backbones import load_preprocessor
from vlm2vec_service.backbones.table import read_json
from vlm2vec_service.errors import CheckpointError, StartError
from vlm2vec_service.frontend.addresses import Exposure, follow_files, open_access
from vlm2vec_service.frontend.grpc.adapters import AdapterServicer
from vlm2vec_service.frontend.grpc.embedding import EmbeddingServicer
from vlm2vec_service.frontend.grpc.health import HealthServicer
from vlm2vec_service.frontend.grpc.interceptor import Interceptor
from vlm2vec_service.frontend.http.server import start_http
from vlm2vec_service.frontend.metrics_server import start_metrics
from vlm2vec_service.frontend.pipeline import Pipeline, Served
from vlm2vec_service.frontend.reload import Reloaded
from vlm2vec_service.frontend.tls import Certificate, grpc_credentials
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.settings import (
    EngineSettings,
    Limits,
    RegistrySettings,
    ServerSettings,
    VideoSettings,
)
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.versions.catalog import BASE_VERSION, Catalog, Model, read_version
from vlm2vec_service.versions.follower import Follower
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.shadow import Shadow

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Deployment:
    """What to serve. ``adapters`` by model and version, ``aliases`` by model and alias; ``workers``
    are addresses of workers on other hosts, by model (a model without one gets processes here)."""

    models: Mapping[str, Path]
    adapters: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    aliases: Mapping[tuple[str, str], str] = field(default_factory=dict)
    workers: Mapping[str, Sequence[str]] = field(default_factory=dict)


def read_catalog(deployment: Deployment, registry: bool = False) -> Catalog:
    """Reads every checkpoint and adapter folder once. Raises `ServeError` naming what is wrong.

    The champion is the alias given, or the adapter given last, or the base model; unless there is a
    ``registry``, which knows better than to take the base model for a version.
    """
    catalog = Catalog({})
    for name, base in deployment.models.items():
        log.info("model %s: reading %s", name, base)
        backbone = read_json(base / "config.json").get("model_type", "")
        try:
            digest = base_digest(base)
        except OSError as error:
            raise CheckpointError(f"{base}: {error}") from error
        versions = {BASE_VERSION: read_version(BASE_VERSION, None, digest)}
        for (model, version), folder in deployment.adapters.items():
            if model == name:
                versions[version] = read_version(version, folder, digest)
        aliases = {alias: v for (model, alias), v in deployment.aliases.items() if model == name}
        if len(versions) > 1 or not registry:
            aliases.setdefault(CHAMPION, list(versions)[-1])
        catalog.models[name] = Model(name, base, backbone, digest, versions, aliases)
    for model, version in deployment.adapters:
        catalog.model(model).choose(version=version)
    for model, alias in deployment.aliases:
        catalog.model(model).choose(alias=alias)
    for model in deployment.workers:
        catalog.model(model)
    return catalog


def build(
    deployment: Deployment,
    settings: ServerSettings,
    engine: EngineSettings,
    limits: Limits,
    video: VideoSettings,
    registry: RegistrySettings = RegistrySettings(),  # noqa: B008 (it is frozen)
) -> Pipeline:
    """Everything but what runs; needs a running event loop."""
    catalog = read_catalog(deployment, bool(registry.registry))
    metrics = Metrics()
    connect = functools.cache(lambda: Registry(registry.registry))
    served = {}
    for model in catalog.models.values():
        addresses = deployment.workers.get(model.name, ())
        devices = engine.device.split(",")
        workers = [
            Worker(
                f"{model.name}/{place}", model.name, model.base,
                engine if addresses else EngineSettings(**{**vars(engine), "device": place}),
                metrics, settings.batch_timeout_seconds, place if addresses else None,
            )
            for place in (addresses or devices)
        ]  # fmt: skip
        scheduler = Scheduler(
            model.name, settings.max_queue_requests, settings.max_queue_tokens, metrics
        )
        preprocessor = load_preprocessor(model.base, limits)
        loader = Loader(model, workers, preprocessor, registry, metrics)
        shadow = Shadow(model.name, scheduler, metrics)
        one = Served(model, preprocessor, scheduler, workers, loader, shadow)
        if registry.registry:
            one.follower = _follow(one, connect, registry, metrics)
        served[model.name] = one
    return Pipeline(
        catalog, served, settings, limits, video.video_frames, metrics,
        registry.adapters_read_only, registry.webhook_secret_file,
    )  # fmt: skip


def _follow(
    served: Served, connect: Callable[[], Registry], settings: RegistrySettings, metrics: Metrics
) -> Follower:
    """Gives the model's loader the registry's versions, and follows its aliases."""
    loader, model = served.loader, served.model
    folder = Path(settings.cache_dir).expanduser()
    try:
        loader.cache = Cache(folder, settings.cache_bytes)
    except OSError as error:
        raise StartError(f"--cache-dir {folder}: {error}") from error

    def fetch(version: PublishedVersion, place: Path) -> None:
        connect().download(version, place, settings.max_artifact_bytes)

    loader.fetch = fetch
    # Another registry may have a model of the same name.
    source = hashlib.sha256(f"{settings.registry}\0{model.name}".encode()).hexdigest()[:16]
    state = folder / f"registry-{source}.json"
    return Follower(model, loader, connect, state, settings.poll_seconds, metrics)


async def _load_first(pipeline: Pipeline) -> list[asyncio.Task[None]]:
    """Has what is known now ready for the workers that start, and follows the registry from then."""
    tasks = []
    for served in pipeline.served.values():
        for version in list(served.model.versions.values()):
            await served.loader.ensure(version)
        if served.follower is not None:
            await served.follower.step()
            tasks.append(asyncio.create_task(served.follower.run()))
    return tasks


async def serve(pipeline: Pipeline, exposure: Exposure = Exposure()) -> None:  # noqa: B008
    """Serves until SIGTERM or SIGINT, then finishes what was accepted."""
    settings = pipeline.settings
    access, certificate = open_access(pipeline, exposure)
    server = grpc.aio.server(
        interceptors=[*tracing.frontend_interceptors(), Interceptor(access)],
        options=_channel_options(settings),
    )
    embedding_pb2_grpc.add_EmbeddingServiceServicer_to_server(EmbeddingServicer(pipeline), server)
    adapters_pb2_grpc.add_AdapterServiceServicer_to_server(AdapterServicer(pipeline), server)
    names = [
        embedding_pb2.DESCRIPTOR.services_by_name["EmbeddingService"].full_name,
        adapters_pb2.DESCRIPTOR.services_by_name["AdapterService"].full_name,
    ]
    healthy = HealthServicer(names)
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    reflection.enable_server_reflection(
        (*names, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    _listen(server, settings.listen, certificate)
    if settings.metrics_listen:
        start_metrics(settings.metrics_listen, access.authenticator, certificate)
    http = await start_http(pipeline, access, exposure.http, certificate)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    supervisors = await _load_first(pipeline)
    supervisors += _start_workers(pipeline, healthy)
    supervisors += follow_files(access, exposure.auth, certificate)
    await server.start()
    addresses = " and ".join(filter(None, (settings.listen, exposure.http.http_listen)))
    log.info("serving %s on %s", ", ".join(pipeline.served), addresses)
    await stop.wait()

    log.info("draining: at most %.0f s", settings.drain_seconds)
    pipeline.draining.set()
    healthy.close()
    await asyncio.gather(server.stop(settings.drain_seconds), *([http.stop()] if http else []))
    for task in supervisors:
        task.cancel()
    await asyncio.gather(*supervisors, return_exceptions=True)
    for served in pipeline.served.values():
        served.scheduler.close()
    log.info("stopped")


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


def _start_workers(pipeline: Pipeline, healthy: HealthServicer) -> list[asyncio.Task[None]]:
    """Starts every worker; each change of one sets readiness and wakes its scheduler."""
    tasks = []
    for served in pipeline.served.values():
        for worker in served.workers:
            lane = served.scheduler.add_worker(worker)

            def changed(wake: asyncio.Event = lane.wake) -> None:
                wake.set()
                healthy.set(pipeline.ready)

            worker.on_change = changed
            if served.follower is not None:
                served.follower.on_change = changed
            tasks.append(asyncio.create_task(worker.keep_running()))
    return tasks


def _channel_options(settings: ServerSettings) -> list[tuple[str, int]]:
    milliseconds = int(settings.keepalive_seconds * 1000)
    options = [
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_send_message_length", settings.max_message_bytes),
        ("grpc.keepalive_time_ms", milliseconds),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Two front ends must not share a port by accident.
        ("grpc.so_reuseport", 0),
    ]
    if settings.max_connection_age_seconds:
        age = int(settings.max_connection_age_seconds * 1000)
        grace = int(settings.drain_seconds * 1000)
        options += [
            ("grpc.max_connection_age_ms", age),
            ("grpc.max_connection_age_grace_ms", grace),
        ]
    return options
