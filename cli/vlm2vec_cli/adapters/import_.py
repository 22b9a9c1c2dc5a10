"""The command ``vlm2vec adapters import``, which makes what others published a plain PEFT
folder."""

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from vlm2vec_cli.adapters.group import adapters
from vlm2vec_cli.parse import FOLDER
from vlm2vec_registry import hub
from vlm2vec_registry.adapter_import import Imported, find_adapter, import_adapter
from vlm2vec_registry.media_rules import DECODES
from vlm2vec_registry.strict import read_object
from vlm2vec_service.errors import listed
from vlm2vec_service.folders import Source, here, source

OUT = click.Path(path_type=Path)


def parse_resize(
    context: click.Context, parameter: click.Parameter, value: str | None
) -> list[int] | None:
    """Parses WIDTHxHEIGHT."""
    if value is None:
        return None
    sides = value.split("x")
    if len(sides) != 2 or not all(side.isascii() and side.isdigit() for side in sides):
        raise click.BadParameter(f"{value!r} is not WIDTHxHEIGHT")
    return [int(side) for side in sides]


def parse_image(
    context: click.Context, parameter: click.Parameter, items: Sequence[str]
) -> dict[str, int]:
    """Parses values KEY=NUMBER, in which each key may be given once."""
    image: dict[str, int] = {}
    for item in items:
        key, _, number = item.partition("=")
        if not (key and number.isascii() and number.isdigit()):
            raise click.BadParameter(f"{item!r} is not KEY=NUMBER")
        if key in image:
            raise click.BadParameter(f"{key!r} is given twice")
        image[key] = int(number)
    return image


@adapters.command("import")
@click.argument("folder", type=FOLDER)
@click.argument("out", type=OUT)
@click.option(
    "--base",
    type=source,
    metavar="DIR",
    help="Checkpoint it was trained on, a folder or a model of the hub: only what differs from it "
    "is taken over. Default: what adapter_config.json names, where that is a folder here.",
)
@click.option(
    "--resize",
    metavar="WIDTHxHEIGHT",
    callback=parse_resize,
    help="The size in pixels that every picture gets first, its aspect lost (image.resize).",
)
@click.option(
    "--image",
    metavar="KEY=NUMBER",
    multiple=True,
    callback=parse_image,
    help="A setting of the pictures, such as num_crops=4 or max_pixels=1003520; may be repeated.",
)
@click.option(
    "--decode",
    type=click.Choice(DECODES),
    help="Decode pictures as a viewer shows them, or raw, as upstream's training did "
    "(image.decode).",
)
@click.option(
    "--max-text-tokens",
    metavar="N",
    type=click.IntRange(1),
    help="Where the text of an input is cut (max_text_tokens).",
)
def import_(
    folder: Path,
    out: Path,
    base: Source | None,
    resize: list[int] | None,
    image: dict[str, int],
    decode: str | None,
    max_text_tokens: int | None,
) -> None:
    """Make the new folder OUT of the adapter in FOLDER, ready to be served or published.

    FOLDER is as it comes from the Hugging Face hub or from a Trainer; the adapter may be in a
    folder below. Its adapter_model.bin becomes safetensors, bit for bit; nothing that is pickled
    there can run, and what holds more than tensors is refused. What its preprocessor_config.json
    says of pictures goes to OUT/embedding.json, for which the options are as well: they are what
    its authors set in their code, and no file says. What embedding.json says already stays. Other
    files, such as an optimizer's, are left behind.

    \b
    Example:
      hf download TIGER-Lab/VLM2Vec-LoRA --local-dir VLM2Vec-LoRA
      vlm2vec adapters import VLM2Vec-LoRA vlm2vec-lora \\
          --base microsoft/Phi-3.5-vision-instruct --image num_crops=4 --max-text-tokens 256
      vlm2vec adapters import VLM2Vec-Qwen2VL-2B vlm2vec-qwen2vl-2b \\
          --base Qwen/Qwen2-VL-2B-Instruct --resize 1344x1344
    """
    checkpoint = here(base, hub.BASE) if base else named_base(find_adapter(folder))
    given = {"resize": resize, "decode": decode}
    said: dict[str, Any] = {"image": image | {k: v for k, v in given.items() if v is not None}}
    if max_text_tokens is not None:
        said["max_text_tokens"] = max_text_tokens
    imported = import_adapter(folder, out, checkpoint, said)
    for line in report(imported):
        click.echo(line)
    if imported.preprocessor and not checkpoint:
        click.echo(f"{imported.preprocessor} was compared with no base's; --base DIR does that")
    on = shlex.quote(str(base or checkpoint or "DIR"))
    click.echo(f"next: vlm2vec adapters publish {shlex.quote(str(out))} --model NAME --base {on}")


def named_base(adapter: Path) -> Path | None:
    """The base that ``adapter_config.json`` in the folder ``adapter`` names, if it is a folder
    here. Raises `FormatError`."""
    named = read_object(adapter / "adapter_config.json").get("base_model_name_or_path")
    # Unlike Path.is_dir, this is false for a name of any length, and without permission.
    if isinstance(named, str) and named and os.path.isdir(named):
        return Path(named)
    return None


def report(imported: Imported) -> Iterator[str]:
    """Says in lines what importing did."""
    done = f"{imported.tensors} tensors converted" if imported.tensors else "copied"
    yield f"{imported.source / imported.weights}: {done}"
    if imported.preprocessor:
        taken = [f"image.{key} {value}" for key, value in imported.taken.items()]
        into = f"{', '.join(taken)} to embedding.json" if taken else "nothing to take over"
        yield f"{imported.preprocessor}: {into}"
    if imported.left:
        yield f"left behind: {listed(imported.left)}"
