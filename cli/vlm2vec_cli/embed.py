"""The command ``vlm2vec embed``, which embeds a file of JSON lines without a server."""

import sys
from pathlib import Path
from typing import Any

import click

from vlm2vec_cli.parse import (
    FILE,
    base_option,
    names_and_sources,
    preprocess_threads_option,
    progress_option,
)
from vlm2vec_cli.presets import embedding_file, preset_option, settle_adapter, settle_base
from vlm2vec_registry import hub
from vlm2vec_service.folders import here, source
from vlm2vec_service.options import GroupedCommand, options, take
from vlm2vec_service.settings import EngineSettings, Limits, VideoSettings


@click.command(cls=GroupedCommand)
@preset_option
@base_option
@click.option(
    "--embedding",
    type=FILE,
    callback=embedding_file,
    metavar="FILE",
    help="An embedding.json for the base: how it wants to be prompted, pooled and shown pictures.",
)
@click.option(
    "--adapter",
    multiple=True,
    callback=names_and_sources,
    metavar="NAME=DIR",
    help="A PEFT adapter folder, or one of the hub, under the name that lines use for it. "
    "Repeatable.",
)
@click.option(
    "--input",
    required=True,
    type=click.File("rb"),
    help="JSON lines to embed; - is standard input.",
)
@click.option(
    "--output",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="Where vectors go; by extension: .npz, .jsonl or .parquet.",
)
@click.option(
    "--truncate",
    type=click.IntRange(min=0),
    metavar="N",
    help="Leave out the end of a text that makes its line longer than N tokens; 0 is --max-tokens.",
)
@preprocess_threads_option
@progress_option
@options(EngineSettings)
@options(Limits)
@options(VideoSettings)  # fmt: skip
def embed(**values: Any) -> None:
    """Embed a file of JSON lines with a checkpoint and any number of adapters.

    A line holds "id", perhaps "adapter" (a NAME; without one the base model answers), and either
    "prompt", with the model's own placeholders, or "instruction" and "text", which the adapter's
    prompt template joins. "images" is a list of paths or data URIs; "video" is the path of a video,
    a list of its frames, or {"frames": [...], "fps": 2}, and "videos" a list of such; "audio" is
    the path of an audio, and "audios" a list of such. Instead of these and "text", "parts" is a
    list of {"text": ...}, {"image": ...}, {"video": ...} and {"audio": ...} in the order that a
    template may keep. Paths are relative to the folder of the input file.

    With --preset NAME the base, and its adapter if it has one, are those of a published model,
    unless they are given; lines that name no adapter are for that one.

    A line that cannot be embedded is reported with its number, and the rest still run.

    Exit status: 0 when every line has its vector, 1 when some failed, 2 when nothing could start.

    \b
    Example:
      echo '{"id": "cat", "text": "A cat and a dog."}' > requests.jsonl
      vlm2vec embed --base Qwen/Qwen2-VL-2B-Instruct --adapter v2=VLM2Vec/VLM2Vec-V2.0 \\
                    --input requests.jsonl --output out.npz
    """
    preset, given = values.pop("preset"), values.pop("adapter")
    base = settle_base(here(values.pop("base"), hub.BASE), preset, values.pop("embedding"))
    unnamed = None
    if preset and preset.adapter and not given:
        unnamed, given = preset.name, {preset.name: source(preset.adapter)}
    adapters = {name: settle_adapter(adapter, preset) for name, adapter in given.items()}
    # torch takes seconds to import, --help should not.
    from vlm2vec_service.offline.embed import EmbedArguments, run

    arguments = EmbedArguments(
        base=base,
        adapters=adapters,
        unnamed=unnamed,
        source=values.pop("input"),
        output=values.pop("output"),
        threads=values.pop("preprocess_threads"),
        progress=values.pop("progress"),
        truncate=values.pop("truncate"),
        engine=take(EngineSettings, values),
        limits=take(Limits, values),
        video=take(VideoSettings, values),
    )
    sys.exit(1 if run(arguments) else 0)
