"""The command ``vlm2vec``."""

import asyncio
import os
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from vlm2vec_evaluation.command import evaluate
from vlm2vec_registry.errors import RegistryError
from vlm2vec_service import tracing
from vlm2vec_service.adapters_command import adapters
from vlm2vec_service.demo.command import demo
from vlm2vec_service.errors import Vlm2vecError
from vlm2vec_service.keys import keys
from vlm2vec_service.logs import configure
from vlm2vec_service.options import options, take
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
from vlm2vec_training.command import train

Callback = Callable[[click.Context, click.Parameter, Sequence[str]], dict[tuple[str, str], str]]
CONTEXT = {
    "auto_envvar_prefix": "VLM2VEC",
    "show_default": True,
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}


def names_and_folders(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, Path]:
    """Parses NAME=DIR, each name once."""
    folders: dict[str, Path] = {}
    for item in items:
        name, _, folder = item.partition("=")
        if not (name and folder):
            raise click.BadParameter(f"{item!r} is not NAME=DIR")
        if name in folders:
            raise click.BadParameter(f"{name!r} is given twice")
        folders[name] = Path(folder)
    return folders


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="vlm2vec-serve")
def vlm2vec() -> None:
    """Multimodal embeddings from VLM2Vec models: text, images and video to vectors.

    Every option is also an environment variable: VLM2VEC_, the command and the option's name in
    capitals, as in VLM2VEC_EMBED_TOKEN_BUDGET=4096.
    """


@vlm2vec.command()
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkpoint folder in Hugging Face layout: config.json, safetensors, tokenizer.",
)
@click.option(
    "--adapter",
    multiple=True,
    callback=names_and_folders,
    metavar="NAME=DIR",
    help="A PEFT adapter folder, under the name that lines use for it. Repeatable.",
)
@click.option(
    "--input",
    required=True,
    type=click.File("rb"),
    help="JSON lines to embed; - is standard input.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where vectors go; by extension: .npz, .jsonl or .parquet.",
)
@click.option(
    "--threads", default=4, type=click.IntRange(1), help="Threads that decode images and video."
)
@click.option(
    "--progress/--no-progress",
    default=None,
    show_default="on a terminal",
    help="Show a progress bar.",
)
@options(EngineSettings)
@options(Limits)
@options(VideoSettings)  # fmt: skip
def embed(**values: Any) -> None:
    """Embed a file of JSON lines with a checkpoint and any number of adapters.

    A line holds "id", perhaps "adapter" (a NAME; without one the base model answers), and either
    "prompt", with the model's own placeholders, or "instruction" and "text", which the adapter's
    prompt template joins. "images" is a list of paths or data URIs; "video" is the path of a video
    or a list of its frames. Paths are relative to the folder of the input file.

    A line that cannot be embedded is reported with its number, and the rest still run.

    Exit status: 0 when every line has its vector, 1 when some failed, 2 when nothing could start.

    \b
    Example:
      echo '{"id": "cat", "text": "A cat and a dog."}' > requests.jsonl
      vlm2vec embed --base Qwen2-VL-2B-Instruct --adapter v2=VLM2Vec-V2.0 \\
                    --input requests.jsonl --output out.npz
    """
    # torch takes seconds to import, --help should not.
    from vlm2vec_service.offline import Job, run

    job = Job(
        base=values.pop("base"),
        adapters=values.pop("adapter"),
        source=values.pop("input"),
        output=values.pop("output"),
        threads=values.pop("threads"),
        progress=values.pop("progress"),
        engine=take(EngineSettings, values),
        limits=take(Limits, values),
        video=take(VideoSettings, values),
    )
    sys.exit(1 if run(job) else 0)


def _pairs(separator: str) -> Callback:
    """A callback that parses LEFT=RIGHT, where LEFT is one name, or two around ``separator``."""

    def parse(
        context: click.Context, parameter: click.Parameter, items: Sequence[str]
    ) -> dict[tuple[str, str], str]:
        pairs: dict[tuple[str, str], str] = {}
        for item in items:
            left, _, right = item.partition("=")
            name, _, other = left.partition(separator)
            if not (name and other and right):
                raise click.BadParameter(f"{item!r} is not {parameter.metavar}")
            if (name, other) in pairs:
                raise click.BadParameter(f"{left!r} is given twice")
            pairs[name, other] = right
        return pairs

    return parse


def _read_config(context: click.Context, parameter: click.Parameter, path: Path | None) -> None:
    """A TOML file whose keys are the options' names; flags and environment variables go first."""
    if path is None:
        return
    try:
        values = tomllib.loads(path.read_text())
    except ValueError as error:
        raise click.BadParameter(f"{path}: {error}") from error
    known = {option.name for option in context.command.params}
    values = {key.replace("-", "_"): value for key, value in values.items()}
    if unknown := sorted(set(values) - known):
        raise click.BadParameter(f"{path}: unknown key {', '.join(unknown)}")
    context.default_map = values


@vlm2vec.command()
@click.option(
    "--config",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    is_eager=True,
    callback=_read_config,
    expose_value=False,
    help="TOML file with any of these options.",
)
@click.option(
    "--model",
    multiple=True,
    required=True,
    callback=names_and_folders,
    metavar="NAME=DIR",
    help="A checkpoint folder, under the name that callers use. Repeatable.",
)
@click.option(
    "--adapter",
    multiple=True,
    callback=_pairs("/"),
    metavar="NAME/VERSION=DIR",
    help="A PEFT adapter folder as a version of a model. Repeatable.",
)
@click.option(
    "--alias",
    multiple=True,
    callback=_pairs("@"),
    metavar="NAME@ALIAS=VERSION",
    help="A movable name for a version; champion answers who asks for none "
    "(default: the last adapter given). Repeatable.",
)
@click.option(
    "--worker",
    multiple=True,
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
      vlm2vec serve --model v2=Qwen2-VL-2B-Instruct --adapter v2/1=VLM2Vec-V2.0 --device cuda
    """
    from vlm2vec_service.frontend import server
    from vlm2vec_service.frontend.exposure import Exposure

    settings, logs = take(ServerSettings, values), take(LogSettings, values)
    configure(logs.log_level, logs.log_format)
    # Worker processes inherit these as their own options.
    os.environ["VLM2VEC_WORKER_LOG_LEVEL"] = logs.log_level
    os.environ["VLM2VEC_WORKER_LOG_FORMAT"] = logs.log_format
    tracing.configure("vlm2vec-frontend")
    workers: dict[str, list[str]] = {}
    for item in values["worker"]:
        name, _, address = item.partition("=")
        workers.setdefault(name, []).append(address)
    adapters = {key: Path(folder) for key, folder in values["adapter"].items()}
    deployment = server.Deployment(values["model"], adapters, values["alias"], workers)
    engine, limits = take(EngineSettings, values), take(Limits, values)
    video, registry = take(VideoSettings, values), take(RegistrySettings, values)
    exposure = Exposure(
        take(HttpSettings, values), take(TlsSettings, values), take(AuthSettings, values)
    )

    async def run() -> None:
        service = server.build(deployment, settings, engine, limits, video, registry)
        await server.serve(service, exposure)

    asyncio.run(run())


@vlm2vec.command()
@click.option(
    "--base",
    required=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Checkpoint folder in Hugging Face layout.",
)
@click.option("--address", default="127.0.0.1:50052", help="HOST:PORT or unix:PATH to serve on.")
@options(EngineSettings)
@options(LogSettings)  # fmt: skip
def worker(**values: Any) -> None:
    """Run one worker by itself, for `vlm2vec serve --worker NAME=HOST:PORT` on another host.

    It trusts whoever can connect: keep its port inside the cluster.
    """
    from vlm2vec_service.worker.server import serve as serve_worker

    log = take(LogSettings, values)
    configure(log.log_level, log.log_format)
    tracing.configure("vlm2vec-worker")
    serve_worker(values.pop("base"), values.pop("address"), take(EngineSettings, values))


vlm2vec.add_command(adapters)
vlm2vec.add_command(demo)
vlm2vec.add_command(evaluate)
vlm2vec.add_command(train)
vlm2vec.add_command(keys)


def main() -> None:
    """Runs the command; errors that a user can mend are a sentence, not a traceback."""
    try:
        vlm2vec()
    except (Vlm2vecError, RegistryError) as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
