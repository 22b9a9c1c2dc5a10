"""The command ``vlm2vec verify``, which runs what a model's authors published of an example."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt

from vlm2vec_cli.parse import FILE
from vlm2vec_cli.presets import read_preset, settle_adapter, settle_base
from vlm2vec_registry import hub, preset
from vlm2vec_registry.preset import Preset, Words
from vlm2vec_service.errors import StartError
from vlm2vec_service.folders import Source, here, source
from vlm2vec_service.options import GroupedCommand, options, take
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings

Vector = npt.NDArray[np.float32]


@click.command(cls=GroupedCommand)
@click.argument("preset", callback=read_preset)
@click.option(
    "--image",
    required=True,
    type=FILE,
    help="The picture of the example, from the authors' repository.",
)
@click.option(
    "--base", type=source, metavar="DIR", help="The base; default: the preset's, fetched."
)
@click.option(
    "--adapter", type=source, metavar="DIR", help="The adapter; default: the preset's, fetched."
)
@click.option(
    "--tolerance",
    default=0.01,
    type=click.FloatRange(0, 2),
    help="How far a similarity may be from the published one; those were made in bfloat16.",
)
@options(EngineSettings)  # fmt: skip
def verify(
    preset: Preset,
    image: Path,
    base: Source | None,
    adapter: Source | None,
    tolerance: float,
    **values: Any,
) -> None:
    """Embed the example that PRESET's authors published, and compare the similarities.

    Exit status: 0 when all came out, 1 when one did not, 2 when nothing could start.

    \b
    Example:
      vlm2vec verify vlm2vec-v2 --image VLM2Vec/assets/example.jpg --device cuda
    """
    require_example(preset)
    base_folder = settle_base(here(base or source(str(preset.base)), hub.BASE), preset)
    if adapter is None and preset.adapter:
        adapter = source(preset.adapter)
    adapter_folder = settle_adapter(adapter, preset) if adapter else None
    # torch takes seconds to import, --help should not.
    from vlm2vec import Input
    from vlm2vec_evaluation.local import load

    engine = take(EngineSettings, values)
    model = load(base_folder, adapter_folder, engine, Limits(), VideoSettings())
    words = {said(one): one for pair in preset.example for one in (pair.left, pair.right)}
    inputs = [
        (
            name.encode(),
            Input(text=one.text, instruction=one.instruction, images=[image] * one.image),
        )
        for name, one in words.items()
    ]
    vectors: dict[Words, Vector] = {}
    for key, vector in model.embed(inputs):
        if isinstance(vector, Exception):
            raise StartError(f"{key.decode()}: {vector}")
        vectors[words[key.decode()]] = vector
    sys.exit(0 if compare(preset, vectors, tolerance) else 1)


def require_example(found: Preset) -> None:
    """Raises `StartError` for a preset of whose model no example was published."""
    if not found.example:
        known = [name for name in preset.names() if preset.read(name).example]
        raise StartError(
            f"no example of {found.name} was published that we know; there are {', '.join(known)}"
        )


def compare(found: Preset, vectors: Mapping[Words, Vector], tolerance: float) -> bool:
    """Prints each similarity beside the published one; says whether all are within
    ``tolerance``."""
    good = True
    click.echo("published    here")
    for pair in found.example:
        left, right = vectors[pair.left], vectors[pair.right]
        cosine = float(left @ right / (np.linalg.norm(left) * np.linalg.norm(right)))
        same = abs(cosine - pair.cosine) <= tolerance
        good = good and same
        mark = "" if same else "  differs"
        click.echo(
            f"{pair.cosine:9.4f}  {cosine:6.4f}  {said(pair.left)} | {said(pair.right)}{mark}"
        )
    click.echo(f"{found.name}: {'as published' if good else 'not as published'}")
    return good


def said(words: Words) -> str:
    """One side of an example as a person reads it."""
    parts = ["[picture]"] * words.image + [words.instruction or "", words.text or ""]
    return " ".join(filter(None, parts))
