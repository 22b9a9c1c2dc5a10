"""The command ``vlm2vec demo``, which shows a whole rollout with the model that ships."""

from pathlib import Path

import click

from vlm2vec_cli.parse import progress_option


@click.command()
@click.option(
    "--folder",
    default="vlm2vec-demo",
    type=click.Path(file_okay=False, path_type=Path),
    help="Where the MLflow store, the server's log and demo.png go; may be that of an earlier "
    "demo.",
)
@click.option(
    "--scenes",
    default=60,
    type=click.IntRange(8, 1000),
    help="Test scenes of each kind; there are about thirteen inputs for each.",
)
@click.option("--keep", is_flag=True, help="Leave the server running, and say how to stop it.")
@progress_option
def demo(folder: Path, scenes: int, keep: bool, progress: bool) -> None:
    """Publish, serve, measure and roll out the model that ships, on this machine and offline.

    Two adapter versions of a tiny Qwen2-VL that reads handwritten digits go to an MLflow registry
    in --folder. A server follows the registry; test pictures that no training saw are streamed
    through the client, and scored by MMEB's protocol. Then version 2 is promoted while a stream
    runs. It takes about a minute on two CPU cores.

    Exit status: 0 when no request failed, 1 when some did, 2 when it could not run.

    \b
    Examples:
      vlm2vec demo
      vlm2vec demo --keep --folder /tmp/demo
    """
    click.echo(f"vlm2vec demo, in {folder}: about a minute")
    # grpc and MLflow take seconds to import; --help should not.
    from vlm2vec_demo.run import DemoArguments, run

    if run(DemoArguments(folder, scenes, keep, progress)):
        raise SystemExit(1)
