"""``python -m vlm2vec_training.digits``: trains the model that ships with the service."""

from pathlib import Path

import click
import torch

from vlm2vec_training import processes
from vlm2vec_training.digits.recipe import Recipe, run


@click.command(context_settings={"auto_envvar_prefix": "VLM2VEC_DIGITS", "show_default": True})
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for vision, base, v1 and v2; stages that it holds are skipped.",
)
@click.option("--threads", default=1, help="Threads of torch in each process.")
def main(output: Path, threads: int) -> None:
    """Train the model of handwritten digits: about an hour on two CPU cores.

    Several processes share the work under torchrun; two of one thread are faster than two threads.
    """
    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    with processes.group(torch.device("cpu")):
        run(output, Recipe())


main()
