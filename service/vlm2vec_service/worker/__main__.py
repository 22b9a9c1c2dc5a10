"""``python -m vlm2vec_service.worker``: one worker, as a front end starts it for itself."""

import logging
import sys
from typing import Any

import click

from vlm2vec_registry import hub
from vlm2vec_service import tracing
from vlm2vec_service.errors import ServeError
from vlm2vec_service.folders import here, source
from vlm2vec_service.kinds import KINDS
from vlm2vec_service.logs import configure
from vlm2vec_service.options import GroupedCommand, options, take
from vlm2vec_service.settings import EngineSettings, LogSettings
from vlm2vec_service.worker.parent import end_with_parent


@click.command(cls=GroupedCommand)
@click.option(
    "--base",
    required=True,
    type=source,
    metavar="DIR",
    help="Checkpoint folder in Hugging Face layout, or a model of the hub.",
)
@click.option(
    "--address",
    default="127.0.0.1:50052",
    type=KINDS["address"],
    metavar=KINDS["address"].unit,
    help="Address to serve on.",
)
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
    base = here(values.pop("base"), hub.BASE, logging.getLogger(__name__).info)
    serve_worker(base, values.pop("address"), take(EngineSettings, values))


if __name__ == "__main__":
    end_with_parent()
    try:
        worker(auto_envvar_prefix="VLM2VEC_WORKER")
    except ServeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
