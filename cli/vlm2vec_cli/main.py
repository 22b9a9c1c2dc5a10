"""The command ``vlm2vec``, to which every other module adds a command of its own."""

import os
import sys

import click

from vlm2vec_cli.adapters import adapters
from vlm2vec_cli.bench.command import bench
from vlm2vec_cli.demo import demo
from vlm2vec_cli.embed import embed
from vlm2vec_cli.evaluate import evaluate
from vlm2vec_cli.keys import keys
from vlm2vec_cli.presets import presets
from vlm2vec_cli.serve import serve
from vlm2vec_cli.train import train
from vlm2vec_cli.verify import verify
from vlm2vec_service import extras
from vlm2vec_service.errors import ServeError
from vlm2vec_service.worker.__main__ import worker

CONTEXT = {
    "auto_envvar_prefix": "VLM2VEC",
    "show_default": True,
    "max_content_width": 100,
    "help_option_names": ["-h", "--help"],
}


@click.group(context_settings=CONTEXT)
@click.version_option(package_name="vlm2vec-serve")
def vlm2vec() -> None:
    """Multimodal embeddings from VLM2Vec models: text, images, video and audio to vectors.

    Every option is also an environment variable: VLM2VEC_, the command and the option's name in
    capitals, as in VLM2VEC_EMBED_TOKEN_BUDGET=4096.
    """


for command in (
    serve, embed, worker, adapters, presets, verify, keys, train, evaluate, demo, bench,
):  # fmt: skip
    vlm2vec.add_command(command)


def main() -> None:
    """Runs the command; prints errors that a user can mend as a sentence, without a traceback."""
    # Threads on a CPU that wait for each other by spinning stall where others need the cores.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        vlm2vec()
    except (ServeError, ModuleNotFoundError) as error:
        if isinstance(error, ModuleNotFoundError):
            if error.name not in extras.EXTRAS:
                raise
            error = extras.missing(error.name)
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
