"""The commands ``python -m vlm2vec_demo.digits``, which make the model that ships."""

from pathlib import Path

import click

FOLDER = click.Path(file_okay=False, path_type=Path)


@click.group(context_settings={"auto_envvar_prefix": "VLM2VEC_DIGITS", "show_default": True})
def digits() -> None:
    """Train, measure and ship the model of handwritten digits."""


@digits.command()
@click.option("--output", required=True, type=FOLDER, help="Folder of the stages; done ones stay.")
@click.option("--threads", default=1, help="Threads of torch in each process.")
def train(output: Path, threads: int) -> None:
    """Train vision, base, v1 and v2: about an hour on two quiet CPU cores.

    Processes share the work under torchrun; two of one thread are faster than one of two.
    """
    import torch

    from vlm2vec_demo.digits.recipe import Recipe, run
    from vlm2vec_training import processes

    torch.set_num_threads(threads)
    output.mkdir(parents=True, exist_ok=True)
    with processes.group(torch.device("cpu")):
        run(output, Recipe())


@digits.command()
@click.option("--output", required=True, type=FOLDER, help="Folder to write to.")
def data(output: Path) -> None:
    """Write the evaluation sets of test digits, and their suite, for vlm2vec evaluate."""
    from vlm2vec_demo.digits.suite import write_suite

    click.echo(write_suite(output))


@digits.command()
@click.option("--run", required=True, type=FOLDER, help="Folder of train, with the scores.")
def ship(run: Path) -> None:
    """Copy a run into the package, with its model card."""
    from vlm2vec_demo.digits import MODEL
    from vlm2vec_demo.digits.card import ship as copy

    click.echo(f"{MODEL}: {copy(run) / 1e6:.2f} MB")


digits()
