"""The command ``vlm2vec train``, which trains an adapter and publishes it."""

import os
from pathlib import Path
from typing import Any

import click

from vlm2vec_cli.adapters.check import check_on_base
from vlm2vec_cli.parse import FILE, base_option, progress_option
from vlm2vec_cli.presets import preset_option
from vlm2vec_registry import hub
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.names import check_model_name
from vlm2vec_service.folders import here
from vlm2vec_service.options import GroupedCommand, options, take
from vlm2vec_training.settings import AdapterSettings, TrainSettings


@click.command(cls=GroupedCommand)
@preset_option
@base_option
@click.option(
    "--data",
    required=True,
    type=FILE,
    help="YAML file of the subsets to train on.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder for the adapter, and meanwhile for the states to resume from.",
)
@click.option(
    "--resume/--no-resume",
    default=True,
    help="Go on from the newest state in --output; otherwise start anew and write over it.",
)
@click.option("--publish", metavar="MODEL", help="Publish the best adapter as a version of MODEL.")
@click.option(
    "--registry",
    default="",
    help="MLflow: the URI of a server or database, or a folder. The run is recorded there.",
)
@progress_option
@options(AdapterSettings)
@options(TrainSettings)  # fmt: skip
def train(**values: Any) -> None:
    """Train an adapter with VLM2Vec's contrastive loss, and publish it.

    The weights of --base stay as they are. --data names subsets in MMEB-train's format, each with
    the path of a parquet or JSON lines file, or a folder of them, and a weight:

    \b
      MSCOCO_i2t:
        path: MMEB-train/MSCOCO_i2t
        image_dir: MMEB-train
        weight: 2

    A row has qry, qry_image_path, pos_text and pos_image_path, and for hard negatives neg_text and
    neg_image_path. The negatives of a query are the targets of all other queries of the step, over
    all processes, and all hard ones.

    On several GPUs: torchrun --nproc-per-node 8 -m vlm2vec_cli train ... --device cuda

    With --preset NAME the adapter is trained, and later served, as that published model is
    prompted, pooled and shown pictures.

    A run that was killed goes on at the last state when it is started again with the same options.

    \b
    Example:
      vlm2vec train --base Qwen/Qwen2-VL-2B-Instruct --data train.yaml --output out \\
                    --adapter dora --device cuda --publish vlm2vec-v2 --registry http://mlflow:5000
    """
    preset = values.pop("preset")
    publish: str | None = values.pop("publish")
    registry: str = values.pop("registry")
    if publish and not registry:
        raise click.UsageError("--publish needs --registry, where MLflow is")
    if publish:
        check_model_name(publish)
    values["base"] = here(values["base"], hub.BASE)
    # torch takes seconds to import, --help should not.
    import torch

    from vlm2vec_training import processes
    from vlm2vec_training.trainer import TrainArguments, train

    settings, adapter = take(TrainSettings, values), take(AdapterSettings, values)
    if settings.device == "cuda" and "LOCAL_RANK" in os.environ:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    with processes.group(torch.device(settings.device)):
        arguments = TrainArguments(
            **values,
            adapter=adapter,
            train=settings,
            tracking=registry,
            embedding=preset.embedding if preset else EmbeddingConfig(),
        )
        result = train(arguments)
        if processes.rank():
            return
    score = "" if result.hit1 is None else f", hit@1 {result.hit1:.3f} on held-out rows"
    click.echo(f"{result.folder}: loss {result.losses[-1]:.3f}{score}")
    if publish:
        from vlm2vec_registry.store import Registry

        check_on_base(result.folder, arguments.base)
        version = Registry(registry).publish(
            publish,
            result.folder,
            base=arguments.base,
            alias=None,
            metrics={} if result.hit1 is None else {"held_out_hit1": result.hit1},
            tags=result.tags,
            run_id=result.run_id,
        )
        click.echo(f"published {version.model} version {version.name}, space {version.space}")
