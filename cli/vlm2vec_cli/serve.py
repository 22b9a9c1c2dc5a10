"""The command ``vlm2vec serve``, which runs the service until it is told to stop."""

import asyncio
import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import click

from vlm2vec_cli.config import print_config, read_config, unknown_variables
from vlm2vec_cli.parse import FILE, names_and_sources, pairs
from vlm2vec_cli.presets import (
    add_models,
    embedding_files,
    named_presets,
    settle_adapter,
    settle_base,
)
from vlm2vec_registry import hub
from vlm2vec_service import tracing
from vlm2vec_service.cores import threads_of_a_worker
from vlm2vec_service.errors import StartError
from vlm2vec_service.folders import here, source
from vlm2vec_service.kinds import KINDS
from vlm2vec_service.logs import configure
from vlm2vec_service.options import GroupedCommand, options, take
from vlm2vec_service.settings import (
    AuthSettings,
    EngineSettings,
    HttpSettings,
    Limits,
    LogSettings,
    RegistrySettings,
    ServerSettings,
    TlsSettings,
    VideoSettings,
)
from vlm2vec_service.versions.catalog import BASE_VERSION

log = logging.getLogger("vlm2vec_cli.serve")


def worker_addresses(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, list[str]]:
    """Parses values NAME=HOST:PORT, in which a name may be given several times."""
    workers: dict[str, list[str]] = {}
    for item in items:
        name, _, address = item.partition("=")
        if not (name and address):
            raise click.BadParameter(f"{item!r} is not NAME=HOST:PORT")
        KINDS["address"].convert(address.removeprefix("dns:"), parameter, context)
        workers.setdefault(name, []).append(address)
    return workers


@click.command(cls=GroupedCommand)
@click.option(
    "--config",
    type=FILE,
    is_eager=True,
    callback=read_config,
    expose_value=False,
    help="TOML file with any of these options.",
)
@click.option(
    "--print-config",
    is_flag=True,
    is_eager=True,
    callback=print_config,
    expose_value=False,
    help="Write a file for --config, with every option at its default, and end.",
)
@click.option(
    "--model",
    multiple=True,
    callback=names_and_sources,
    metavar="NAME=DIR",
    help="A checkpoint folder, or a model of the Hugging Face hub as ORG/NAME or "
    "ORG/NAME@REVISION, which is fetched, under the name that callers use. Repeatable.",
)
@click.option(
    "--preset",
    multiple=True,
    callback=named_presets,
    metavar="[NAME=]PRESET",
    help="A published model with its settings, fetched unless --model and --adapter give it; see "
    "vlm2vec presets. NAME is PRESET if it is left out. Repeatable.",
)
@click.option(
    "--embedding",
    multiple=True,
    callback=embedding_files,
    metavar="NAME=FILE",
    help="An embedding.json for the base of a model: how it wants to be prompted, pooled and shown "
    "pictures. Repeatable.",
)
@click.option(
    "--adapter",
    multiple=True,
    callback=pairs("/", source),
    metavar="NAME/VERSION=DIR",
    help="A PEFT adapter folder, or one of the hub, as a version of a model. Repeatable.",
)
@click.option(
    "--alias",
    multiple=True,
    callback=pairs("@"),
    metavar="NAME@ALIAS=VERSION",
    help="A movable name for a version; champion answers who asks for none "
    "(default: the last adapter given). Repeatable.",
)
@click.option(
    "--worker",
    multiple=True,
    callback=worker_addresses,
    metavar="NAME=HOST:PORT",
    help="A worker on another host for a model, instead of a process here. Repeatable.",
)
@options(ServerSettings)
@options(HttpSettings)
@options(TlsSettings)
@options(AuthSettings)
@options(RegistrySettings)
@options(LogSettings)
@options(EngineSettings)
@options(Limits)
@options(VideoSettings)  # fmt: skip
def serve(**values: Any) -> None:
    """Serve models over gRPC and HTTP until SIGTERM, then finish what was accepted.

    Starts a worker process for each model and device (--device cuda:0,cuda:1), restarts it if it
    dies, and answers on --listen and --http-listen, which are this host's alone unless --callers,
    --jwt-keys or --tls-client-ca say who may call. Health, reflection and metrics are on.

    \b
    Example:
      vlm2vec serve --model v2=Qwen/Qwen2-VL-2B-Instruct --adapter v2/1=VLM2Vec/VLM2Vec-V2.0 \\
                    --device cuda
    """
    from vlm2vec_service.frontend import build, server
    from vlm2vec_service.frontend.check import check
    from vlm2vec_service.frontend.credentials import Exposure
    from vlm2vec_service.frontend.loop import FrontEndLoop
    from vlm2vec_service.processes import start
    from vlm2vec_service.processes.member import Member, Shared
    from vlm2vec_service.supervision.devices import check_devices
    from vlm2vec_service.worker.parent import end_with_parent

    settings, logs = take(ServerSettings, values), take(LogSettings, values)
    configure(logs.log_level, logs.log_format)
    # Worker processes inherit these as their own options.
    os.environ["VLM2VEC_WORKER_LOG_LEVEL"] = logs.log_level
    os.environ["VLM2VEC_WORKER_LOG_FORMAT"] = logs.log_format
    for name in unknown_variables(click.get_current_context(), os.environ):
        log.warning("the environment's %s is none of the options; see vlm2vec serve --help", name)
    tracing.configure("vlm2vec-frontend")
    engine, limits = take(EngineSettings, values), take(Limits, values)
    video, registry = take(VideoSettings, values), take(RegistrySettings, values)
    exposure = Exposure(
        take(HttpSettings, values), take(TlsSettings, values), take(AuthSettings, values)
    )
    add_models(values["preset"], values["model"], values["adapter"], registry.registry)
    if not values["model"]:
        raise click.UsageError("Missing option '--model', or '--preset'.")
    check_names(values)
    devices = engine.device.split(",")
    local = [name for name in values["model"] if name not in values["worker"]]
    if (member := Member.from_environment()) is None:
        check(settings, exposure, registry)
        check_devices(devices if local else [])
    if not engine.threads and "OMP_NUM_THREADS" not in os.environ:
        engine = replace(engine, threads=threads_of_a_worker(len(local) * devices.count("cpu")))
    say = log.info
    presets, embeddings = values["preset"], values["embedding"]
    deployment = build.Deployment(
        {
            name: settle_base(here(base, hub.BASE, say), presets.get(name), embeddings.get(name))
            for name, base in values["model"].items()
        },
        {
            key: settle_adapter(adapter, presets.get(key[0]), say)
            for key, adapter in values["adapter"].items()
        },
        values["alias"],
        values["worker"],
    )
    if member is not None:
        end_with_parent()
        shared = Shared.read(member.folder)
        digests = {name: bytes.fromhex(digest) for name, digest in shared.digests.items()}
        deployment = replace(deployment, sockets=shared.sockets, digests=digests)

    async def run() -> None:
        count = start.count_processes(settings, engine, deployment)
        if member is None and count > 1:
            command = [sys.executable, "-m", "vlm2vec_cli", *sys.argv[1:]]
            addresses = (settings.listen, exposure.http.http_listen, settings.metrics_listen)
            await start.run_owner(count, command, addresses, deployment, settings, engine, registry)
            return
        pipeline = build.build(deployment, settings, engine, limits, video, registry, member)
        await server.serve(pipeline, exposure)

    with asyncio.Runner(loop_factory=FrontEndLoop) as runner:
        runner.run(run())
    # Whatever a thread still waits for, a registry or a decoder, nobody waits for it any more.
    logging.shutdown()
    os._exit(0)


def check_names(values: Mapping[str, Any]) -> None:
    """Raises `StartError` for an adapter, alias, worker or embedding of a model that is none of
    ``--model``, and for an alias of a version that nobody gives."""
    models, adapters, aliases = values["model"], values["adapter"], values["alias"]
    named = {
        "adapter": [name for name, _ in adapters],
        "alias": [name for name, _ in aliases],
        "worker": values["worker"],
        "embedding": values["embedding"],
    }
    for option, names in named.items():
        for name in names:
            if name not in models:
                raise StartError(f"{name!r} is none of --model: {', '.join(models)}", option)
    for (name, alias), version in aliases.items():
        if (name, version) not in adapters and version != BASE_VERSION:
            raise StartError(
                f"{name}@{alias}={version}: {name} has no --adapter {name}/{version}=DIR", "alias"
            )
