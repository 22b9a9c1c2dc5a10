"""The command ``vlm2vec adapters publish``, which makes a PEFT folder a version of a model."""

import json
from pathlib import Path

import click

from vlm2vec_cli.adapters.check import check_on_base
from vlm2vec_cli.adapters.group import adapters, open_registry
from vlm2vec_cli.parse import FILE, FOLDER
from vlm2vec_service.errors import StartError


@adapters.command()
@click.argument("folder", type=FOLDER)
@click.option("--model", required=True, help="The model it is a version of; made if it is new.")
@click.option(
    "--base",
    type=FOLDER,
    help="Checkpoint folder it was trained on. Default: what adapter_config.json names, where that "
    "is a folder here.",
)
@click.option("--alias", help="Point this alias to it, such as canary.")
@click.option(
    "--metrics",
    type=FILE,
    help="JSON file of numbers to record with it.",
)
@click.option("--run", "run_id", help="MLflow run that made it; default: a run of its own.")
@click.pass_context
def publish(
    context: click.Context,
    folder: Path,
    model: str,
    base: Path | None,
    alias: str | None,
    metrics: Path | None,
    run_id: str | None,
) -> None:
    """Make the PEFT folder FOLDER a version of a model.

    Every tensor is checked against the shapes of the base, whose weights are read only for their
    digest; pickles are refused. The same bytes on the same base are the same vector space.
    """
    base = base or _named_base(folder)
    check_on_base(folder, base)
    published = open_registry(context).publish(
        model, folder, base=base, alias=alias, metrics=_numbers(metrics), run_id=run_id
    )
    click.echo(f"{model} version {published.name}, space {published.space}")
    if alias:
        click.echo(f"{alias} is version {published.name} now")


def _named_base(folder: Path) -> Path:
    config = folder / "adapter_config.json"
    try:
        named = str(json.loads(config.read_text()).get("base_model_name_or_path") or "")
    except (OSError, ValueError, AttributeError) as error:
        raise StartError(f"{config}: {error}") from error
    if named and Path(named).is_dir():
        return Path(named)
    raise StartError(f"{config} names no base that is a folder here ({named!r}); give --base DIR")


def _numbers(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise StartError(f"{path}: a JSON object of numbers is needed: {error}") from error
