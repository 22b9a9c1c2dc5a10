"""Presets on the command line: the command ``vlm2vec presets``, and the option ``--preset``."""

import json
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from pathlib import Path

import click

from vlm2vec_registry import hub, preset
from vlm2vec_registry.embedding_config import EmbeddingConfig
from vlm2vec_registry.errors import RegistryInputError
from vlm2vec_registry.preset import Preset
from vlm2vec_registry.strict import read_object
from vlm2vec_service.errors import StartError
from vlm2vec_service.folders import Source, here, say_so, source, with_embedding


@click.command()
@click.argument("name", required=False)
def presets(name: str | None) -> None:
    """List the published models whose settings are known, or show all that is known of one.

    What is shown as "embedding" is the text of an embedding.json: --preset NAME gives it to a model
    that has none, and names the model on the hub besides.
    """
    if name is None:
        for found in map(preset.read, preset.names()):
            click.echo(f"{found.name:20}  {found.about}")
        return
    found = preset.read(name)
    shown = {
        "about": found.about, "source": found.source, "base": found.base,
        "adapter": found.adapter, "embedding": found.embedding.to_dict(),
    }  # fmt: skip
    click.echo(json.dumps(shown, indent=2))


def read_preset(
    context: click.Context, parameter: click.Parameter, name: str | None
) -> Preset | None:
    """Reads the preset that a parameter names."""
    return None if name is None else _read(name)


def named_presets(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, Preset]:
    """Parses values [MODEL=]NAME: the presets by the model, which is called NAME if it is not said
    otherwise."""
    found: dict[str, Preset] = {}
    for item in items:
        model, _, name = item.rpartition("=")
        if (model or name) in found:
            raise click.BadParameter(f"{model or name!r} is given twice")
        found[model or name] = _read(name)
    return found


def embedding_file(
    context: click.Context, parameter: click.Parameter, path: Path | None
) -> EmbeddingConfig | None:
    """Reads the file of an option as an ``embedding.json``."""
    return None if path is None else _file(path)


def embedding_files(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, EmbeddingConfig]:
    """Parses values NAME=FILE, each file an ``embedding.json``."""
    found: dict[str, EmbeddingConfig] = {}
    for item in items:
        name, _, path = item.partition("=")
        if not (name and path) or name in found:
            raise click.BadParameter(f"{item!r} is not NAME=FILE, once for each NAME")
        found[name] = _file(Path(path))
    return found


preset_option = click.option(
    "--preset",
    is_eager=True,
    callback=read_preset,
    metavar="NAME",
    help="The published model whose settings are taken; see vlm2vec presets.",
)


def base_or_preset(
    context: click.Context, parameter: click.Parameter, given: Source | None
) -> Source:
    """The base that was given, or else the preset's."""
    found: Preset | None = context.params.get("preset")
    if given is None and found and found.base:
        return source(found.base)
    if given is None:
        raise click.MissingParameter(ctx=context, param=parameter)
    return given


def add_models(
    presets: Mapping[str, Preset],
    models: MutableMapping[str, Source],
    adapters: MutableMapping[tuple[str, str], Source],
    registry: str,
) -> None:
    """Adds what ``presets`` name on the hub to what is given: the base of a model that has none,
    and the adapter of one that has none, as version 1, unless a ``registry`` has them. Raises
    `StartError`."""
    for model, found in presets.items():
        if model not in models:
            if found.base is None:
                raise StartError(
                    f"{found.name} is for any model: give --model {model}=DIR", "preset"
                )
            models[model] = source(found.base)
        if found.adapter and not registry and not any(name == model for name, _ in adapters):
            adapters[model, "1"] = source(found.adapter)


def settle_base(base: Path, found: Preset | None, embedding: EmbeddingConfig | None = None) -> Path:
    """The folder of a base with what a preset of bases or an ``embedding.json`` says of it. Raises
    `StartError`."""
    if found and not found.adapter:
        if embedding is not None:
            raise StartError("give either that, or a --preset", "embedding")
        embedding = found.embedding
    return base if embedding is None else with_embedding(base, embedding)


def settle_adapter(
    given: Source, found: Preset | None, say: Callable[[str], None] = say_so
) -> Path:
    """The folder of an adapter, fetched if need be, with what its preset says of it. Raises
    `StartError`."""
    folder = here(given, hub.ADAPTER, say)
    return with_embedding(folder, found.embedding) if found and found.adapter else folder


def _read(name: str) -> Preset:
    try:
        return preset.read(name)
    except RegistryInputError as error:
        raise click.BadParameter(str(error)) from error


def _file(path: Path) -> EmbeddingConfig:
    try:
        return EmbeddingConfig.from_dict(read_object(path), str(path))
    except ValueError as error:
        raise click.BadParameter(str(error)) from error
