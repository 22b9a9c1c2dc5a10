"""The command ``vlm2vec adapters publish``: makes an adapter, or a base, a version of a model."""

import json
import tempfile
from pathlib import Path

import click

from vlm2vec_cli.adapters.check import check_on_base
from vlm2vec_cli.adapters.group import adapters, open_registry
from vlm2vec_cli.adapters.import_ import named_base, report
from vlm2vec_cli.parse import FILE
from vlm2vec_cli.presets import preset_option, settle_base
from vlm2vec_registry import artifact, hub
from vlm2vec_registry.adapter_import import PICKLED, find_adapter, import_adapter, needs_import
from vlm2vec_registry.names import check_alias
from vlm2vec_registry.preset import Preset
from vlm2vec_service.backbones import read_embedding
from vlm2vec_service.errors import StartError
from vlm2vec_service.folders import Source, here, source, with_embedding


@adapters.command()
@click.argument("folder", type=source, required=False)
@click.option("--model", required=True, help="The model it is a version of; made if it is new.")
@click.option(
    "--base",
    type=source,
    metavar="DIR",
    help="Checkpoint it was trained on, a folder or a model of the hub. Default: what "
    "adapter_config.json names, where that is a folder here.",
)
@preset_option
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
    folder: Source | None,
    model: str,
    base: Source | None,
    preset: Preset | None,
    alias: str | None,
    metrics: Path | None,
    run_id: str | None,
) -> None:
    """Make the PEFT folder FOLDER, or an adapter of the hub, a version of a model; without FOLDER,
    the base itself.

    Every tensor is checked against the shapes of the base, whose weights are read only for their
    digest. The same bytes on the same base are the same vector space. What has to be imported first
    (see vlm2vec adapters import) is, with no options, and standard error says what that did:
    adapter_model.bin, an adapter in a folder below, a preprocessor_config.json beside it.

    With --preset NAME the version is prompted, pooled and shown pictures as that published model,
    and --base is that model's unless it is given.

    A base can so be champion, canary or shadow, be evaluated and rolled back to, as an adapter can.
    Its own embedding.json, or --preset, says how it embeds; a server has to be given the same.
    """
    from vlm2vec_registry.history import recorded  # MLflow takes seconds to import

    if alias:
        check_alias(alias)
    if base is None and preset and preset.base:
        base = source(preset.base)
    registry, numbers = open_registry(context), _numbers(metrics)
    if folder is None:
        checkpoint = _embedding_base(base, preset)
        published = registry.publish(model, None, base=checkpoint, metrics=numbers, run_id=run_id)
    else:
        with tempfile.TemporaryDirectory(prefix="vlm2vec-") as scratch:
            given, checkpoint = _adapter_on_base(folder, base, preset, Path(scratch))
            published = registry.publish(
                model, given, base=checkpoint, metrics=numbers, run_id=run_id
            )
    click.echo(f"{model} version {published.name}, space {published.space}")
    if alias:
        with recorded(registry, model, f"alias {alias}", published.name):
            registry.set_alias(model, alias, published.name)
        click.echo(f"{alias} is version {published.name} now")


def _embedding_base(base: Source | None, preset: Preset | None) -> Path:
    """The folder of a base that embeds by itself, as ``preset`` has it. Raises `StartError`."""
    if base is None:
        raise StartError("give the FOLDER of an adapter, or --base DIR, which then is the version")
    if preset and preset.adapter:
        raise StartError(f"is of an adapter, {preset.adapter}: give that as FOLDER", "preset")
    checkpoint = settle_base(here(base, hub.BASE), preset)
    read_embedding(checkpoint)
    return checkpoint


def _adapter_on_base(
    folder: Source, base: Source | None, preset: Preset | None, scratch: Path
) -> tuple[Path, Path]:
    """The folder of an adapter as it is published, imported to ``scratch`` if need be and checked,
    and that of its base. Raises `ServeError`."""
    given = here(folder, hub.ADAPTER)
    adapter = find_adapter(given)
    checkpoint = here(base, hub.BASE) if base else named_base(adapter)
    if checkpoint is None:
        raise StartError(
            f"{adapter / artifact.CONFIG} names no base that is a folder here; give --base DIR"
        )
    if needs_import(given):
        given = _imported(given, scratch / "adapter", checkpoint)
    if preset:
        given = with_embedding(given, preset.embedding)
    check_on_base(given, checkpoint)
    return given, checkpoint


def _imported(folder: Path, out: Path, base: Path) -> Path:
    """Imports the adapter in ``folder`` to ``out``, which it returns, and says so."""
    if (folder / artifact.WEIGHTS).is_file() and not (folder / PICKLED).is_file():
        # Only its pictures' settings are to be taken over: as ever, it may hold nothing unknown.
        artifact.check_folder(folder)
    for line in report(import_adapter(folder, out, base)):
        click.echo(line, err=True)
    return out


def _numbers(path: Path | None) -> dict[str, float]:
    if path is None:
        return {}
    try:
        return {str(key): float(value) for key, value in json.loads(path.read_text()).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise StartError(f"{path}: a JSON object of numbers is needed: {error}") from error
