"""``python -m vlm2vec embed``: images, audios and texts to a file of vectors."""

import argparse
import sys
from pathlib import Path

from vlm2vec.command import outputs
from vlm2vec.command.flags import add_flag, add_switch, one_of
from vlm2vec.command.server_flags import add_server_flags, open_client, options
from vlm2vec.command.sources import add_source_flags, sources
from vlm2vec.errors import VLM2VecError
from vlm2vec.options import DTYPES
from vlm2vec.progress import wanted
from vlm2vec.results import Embedding, OneSpace

DESCRIPTION = """\
Embeds images, audios and texts, and writes a file by its extension. .npz has the arrays ids (n,),
the paths and texts; vectors (n, dim), float32; truncated (n,), whether a text lost its end; model
and space. .jsonl has a line, and .parquet a row, for each: id, vector, truncated. What cannot be
embedded is reported, and the rest still written."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to its parser."""
    add_source_flags(parser)
    add_flag(parser, "--output", "a .npz, .jsonl or .parquet file", type=Path, required=True)
    add_flag(parser, "--instruction", "the task, such as 'Represent the given image.'")
    add_flag(parser, "--window", "inputs under way at a time", type=int, default=256)
    add_switch(parser, "--progress", "show a bar; without it, on a terminal", default=None)
    add_server_flags(parser)
    vectors = parser.add_argument_group("vectors")
    add_flag(vectors, "--dimensions", "keep the first so many; 0 keeps all", type=int, default=0)
    add_switch(vectors, "--normalize", "L2-normalise; without it, as the model says", default=None)
    add_flag(
        vectors,
        "--dtype",
        f"how they travel: {', '.join(DTYPES)}",
        type=one_of(DTYPES),
        default="float32",
    )


def run(arguments: argparse.Namespace) -> int:
    """Embeds the inputs and writes the file; returns 0 if all have vectors, otherwise 1.

    Raises `VLM2VecError`, ValueError and OSError where nothing can be done.
    """
    named = sources(arguments)
    output: Path = arguments.output
    outputs.check(output)
    asked = options(arguments, "bulk")
    asked["dimensions"] = arguments.dimensions
    asked["normalize"] = arguments.normalize
    asked["dtype"] = arguments.dtype
    found: dict[int, Embedding] = {}
    space = OneSpace()
    with open_client(arguments) as client:
        for index, result in client.stream(
            [source for _, source in named],
            window=arguments.window,
            instruction=arguments.instruction,
            details=True,
            on_error="yield",
            progress=wanted(arguments.progress),
            timeout=arguments.timeout,
            **asked,
        ):
            assert isinstance(index, int)
            if isinstance(result, VLM2VecError):
                print(f"{named[index][0]}: {result}", file=sys.stderr)
            else:
                space.check(result)
                found[index] = result
    if found:
        order = sorted(found)
        outputs.write(output, [named[index][0] for index in order], [found[i] for i in order])
    return 0 if len(found) == len(named) else 1
