"""What is served, from its settings: models with their versions, workers and queues."""

import functools
import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vlm2vec_registry.cache import Cache
from vlm2vec_registry.snapshot import CHAMPION, PublishedVersion
from vlm2vec_registry.space import base_digest
from vlm2vec_registry.store import Registry
from vlm2vec_registry.uri import folder_of
from vlm2vec_service.backbones import backbone_name, load_preprocessor, read_embedding
from vlm2vec_service.errors import CheckpointError, StartError
from vlm2vec_service.frontend.pipeline import Pipeline
from vlm2vec_service.frontend.served import Served
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.processes.member import Member
from vlm2vec_service.processes.snapshots import LOOK_SECONDS, SharedRegistry, poke
from vlm2vec_service.scheduling.scheduler import Scheduler
from vlm2vec_service.settings import (
    EngineSettings,
    Limits,
    RegistrySettings,
    ServerSettings,
    VideoSettings,
)
from vlm2vec_service.supervision.discovery import PREFIX, Discovery
from vlm2vec_service.supervision.process import Worker
from vlm2vec_service.versions.catalog import BASE_VERSION, Catalog, ServedModel, read_version
from vlm2vec_service.versions.fetching import VersionFiles
from vlm2vec_service.versions.follower import Follower
from vlm2vec_service.versions.loader import Loader
from vlm2vec_service.versions.residency import Residency
from vlm2vec_service.versions.shadow import Shadow

log = logging.getLogger(__name__)

AnyRegistry = Registry | SharedRegistry


@dataclass(frozen=True)
class Deployment:
    """What to serve. ``adapters`` by model and version, ``aliases`` by model and alias; ``workers``
    are addresses of workers on other hosts, by model (a model without one gets processes here),
    of which one that begins with ``dns:`` is a name for any number of them;
    ``sockets`` are those of workers here that the owner of several front-end processes started, by
    model and device, and ``digests`` those of the bases that it computed."""

    models: Mapping[str, Path]
    adapters: Mapping[tuple[str, str], Path] = field(default_factory=dict)
    aliases: Mapping[tuple[str, str], str] = field(default_factory=dict)
    workers: Mapping[str, Sequence[str]] = field(default_factory=dict)
    sockets: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    digests: Mapping[str, bytes] = field(default_factory=dict)


def read_catalog(deployment: Deployment, registry: str = "") -> Catalog:
    """Reads every checkpoint and adapter folder once. Raises `ServeError` naming what is wrong, and
    before that `RegistryInputError` for a URI of the ``registry`` that is none.

    The champion is the alias given, or the adapter given last, or the base model. Where there is a
    registry it alone says so: a version that was given beside it would answer while it is away,
    maybe in another space.
    """
    if registry:
        folder_of(registry)
        beside = (("adapter", "/", deployment.adapters), ("alias", "@", deployment.aliases))
        for flag, sign, given in beside:
            if given:
                raise StartError(
                    f"--{flag} {sign.join(next(iter(given)))}: versions and aliases come from "
                    "--registry alone; publish the adapter there, or serve without it"
                )
    catalog = Catalog({})
    for name, base in deployment.models.items():
        log.info("model %s: reading %s", name, base)
        backbone = backbone_name(base)
        own = read_embedding(base)
        try:
            digest = deployment.digests.get(name) or base_digest(base)
        except OSError as error:
            raise CheckpointError(f"{base}: {error}") from error
        versions = {BASE_VERSION: read_version(BASE_VERSION, None, digest, own)}
        for (target, version), folder in deployment.adapters.items():
            if target == name:
                versions[version] = read_version(version, folder, digest)
        model = ServedModel(name, base, backbone, digest, versions)
        if not registry:
            model.aliases[CHAMPION] = list(versions.values())[-1]
        for (target, alias), version in deployment.aliases.items():
            if target == name:
                model.aliases[alias] = model.choose(version=version)
        catalog.models[name] = model
    for name in (*(n for n, _ in (*deployment.adapters, *deployment.aliases)), *deployment.workers):
        catalog.model(name)
    return catalog


def build(
    deployment: Deployment,
    settings: ServerSettings,
    engine: EngineSettings,
    limits: Limits,
    video: VideoSettings,
    registry: RegistrySettings = RegistrySettings(),  # noqa: B008 (it is frozen)
    member: Member | None = None,
) -> Pipeline:
    """Everything but what runs; needs a running event loop. ``member`` is which of several
    front-end processes this is; its ``settings`` are those of the whole server.

    Raises what `read_catalog` raises.
    """
    catalog = read_catalog(deployment, registry.registry)
    metrics = Metrics()
    connect: Callable[[], AnyRegistry] = functools.cache(lambda: Registry(registry.registry))
    if member is not None:
        shared = SharedRegistry(member.folder, functools.partial(Registry, registry.registry))
        settings, connect = member.part_of(settings), lambda: shared
    served = {}
    for model in catalog.models.values():
        given = deployment.workers.get(model.name, ())
        names = [item.removeprefix(PREFIX) for item in given if item.startswith(PREFIX)]
        addresses = [item for item in given if not item.startswith(PREFIX)]
        devices = [] if given else engine.device.split(",")
        sockets = deployment.sockets.get(model.name, {})
        make = functools.partial(
            make_worker, model, settings=settings, engine=engine, metrics=metrics
        )
        workers = [make(place, address=sockets.get(place)) for place in devices]
        workers += [make(address, address=address) for address in addresses]
        scheduler = Scheduler(
            model.name, settings.max_queue_requests, settings.max_queue_tokens, metrics
        )
        preprocessor = load_preprocessor(model.base, limits)
        residency = Residency(model, workers)
        files = _files(model, connect, registry)
        loader = Loader(residency, files, workers, preprocessor, registry, metrics)
        follower = _follower(residency, loader, connect, registry, metrics, member)
        shadow = Shadow(model.name, scheduler, metrics)
        served[model.name] = Served(
            preprocessor, scheduler, workers, residency, loader, shadow, follower,
            _discovery(names, workers, make, loader),
        )  # fmt: skip
    return Pipeline(
        catalog, served, settings, limits, video.video_frames, metrics,
        registry.adapters_read_only, registry.webhook_secret_file, member,
        registry.webhook_peers,
    )  # fmt: skip


def make_worker(
    model: ServedModel,
    place: str,
    settings: ServerSettings,
    engine: EngineSettings,
    metrics: Metrics,
    address: str | None = None,
    socket: Path | None = None,
) -> Worker:
    """Makes a worker of ``model`` at ``place``: the ``address`` of one that others started, or a
    device of one to be started here, which then listens on ``socket`` if that is given."""
    return Worker(
        f"{model.name}/{place}", model.name, model.base, model.digest,
        replace(engine, device=place), metrics, settings.batch_timeout_seconds, address, socket,
    )  # fmt: skip


def _discovery(
    names: Sequence[str], workers: list[Worker], make: Callable[..., Worker], loader: Loader
) -> Discovery | None:
    """Makes what finds the workers at ``names``; None where there are none."""

    def found(address: str) -> Worker:
        worker = make(address, address=address)
        worker.wanted.update(loader.wanted)
        return worker

    return Discovery(names, workers, found) if names else None


def _files(
    model: ServedModel, connect: Callable[[], AnyRegistry], settings: RegistrySettings
) -> VersionFiles:
    """Where the model's versions come from. Raises `StartError` for a cache that cannot be used."""
    if not settings.registry:
        return VersionFiles(model.digest)
    folder = Path(settings.cache_dir).expanduser()
    try:
        cache = Cache(folder, settings.cache_bytes)
    except OSError as error:
        raise StartError(f"{folder}: {error}", "cache_dir") from error

    def fetch(version: PublishedVersion, place: Path) -> None:
        connect().download(version, place, settings.max_artifact_bytes)

    return VersionFiles(model.digest, cache, fetch)


def _follower(
    residency: Residency,
    loader: Loader,
    connect: Callable[[], AnyRegistry],
    settings: RegistrySettings,
    metrics: Metrics,
    member: Member | None,
) -> Follower | None:
    """Makes what follows the registry; None where there is none."""
    if not settings.registry:
        return None
    # Another registry may have a model of the same name.
    name = f"{settings.registry}\0{residency.model.name}"
    source = hashlib.sha256(name.encode()).hexdigest()[:16]
    state = Path(settings.cache_dir).expanduser() / f"registry-{source}.json"
    if member is None:
        return Follower(residency, loader, connect, state, settings.poll_seconds, metrics)
    # What the owner is told comes by itself, and so does its absence.
    follower = Follower(residency, loader, connect, state, LOOK_SECONDS, metrics, LOOK_SECONDS)
    follower.on_poke = functools.partial(poke, member.folder)
    return follower
