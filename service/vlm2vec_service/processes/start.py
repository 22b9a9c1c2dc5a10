"""How many front-end processes there are to be, and the owner that starts them."""

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path

from vlm2vec_registry.store import Registry
from vlm2vec_service.cores import available_cores
from vlm2vec_service.errors import StartError
from vlm2vec_service.frontend.build import Deployment, make_worker, read_catalog
from vlm2vec_service.metrics import Metrics
from vlm2vec_service.processes.member import Shared
from vlm2vec_service.processes.owner import Owner
from vlm2vec_service.settings import EngineSettings, RegistrySettings, ServerSettings
from vlm2vec_service.supervision.process import Worker

CORES, MOST = 4, 8
"""Cores for each process, and the most processes, where nobody says how many."""


def count_processes(
    settings: ServerSettings, engine: EngineSettings, deployment: Deployment
) -> int:
    """How many front-end processes there are to be."""
    if settings.processes:
        return settings.processes
    here = [name for name in deployment.models if name not in deployment.workers]
    if here and "cpu" in engine.device.split(","):
        return 1
    if settings.listen.startswith("unix:"):
        return 1
    return max(1, min(MOST, int(available_cores()) // CORES))


async def run_owner(
    count: int,
    command: Sequence[str],
    addresses: Sequence[str],
    deployment: Deployment,
    settings: ServerSettings,
    engine: EngineSettings,
    registry: RegistrySettings,
) -> None:
    """Runs the owner of ``count`` members, which ``command`` starts and which share ``addresses``,
    until SIGTERM. Raises `ServeError` for what is wrong with the settings."""
    _check_addresses(addresses)
    catalog = read_catalog(deployment, registry.registry)
    metrics = Metrics()
    with tempfile.TemporaryDirectory(prefix="vlm2vec-") as name:
        folder = Path(name)
        sockets: dict[str, dict[str, str]] = {}
        workers: list[Worker] = []
        for model in catalog.models.values():
            if model.name in deployment.workers:
                continue
            for device in engine.device.split(","):
                path = folder / f"worker-{len(workers)}.sock"
                sockets.setdefault(model.name, {})[device] = f"unix:{path}"
                workers.append(make_worker(model, device, settings, engine, metrics, socket=path))
        digests = {model.name: model.digest.hex() for model in catalog.models.values()}
        Shared(sockets, digests).write(folder)
        connect = functools.cache(lambda: Registry(registry.registry))
        await Owner(
            folder, command, count, workers, list(catalog.models),
            connect if registry.registry else None, registry.poll_seconds, settings.drain_seconds,
            metrics,
        ).run()  # fmt: skip


def _check_addresses(addresses: Sequence[str]) -> None:
    """Raises `StartError` for an address that several processes cannot share."""
    for address in filter(None, addresses):
        if address.startswith("unix") or address.endswith(":0"):
            raise StartError(
                f"{address} cannot be shared by several processes: give HOST:PORT, or --processes 1"
            )
