"""``vlm2vec-client reembed``: a corpus into another vector space, also after interruptions."""

import argparse
import sys
from pathlib import Path

from vlm2vec.command.flags import add_flag, add_switch, add_texts, one_of, texts
from vlm2vec.command.server_flags import (
    add_connection_flags,
    add_truncate_flag,
    connection,
    truncate,
)
from vlm2vec.progress import wanted

DESCRIPTION = """\
Embeds every row of a corpus with another version of its model, because vectors of two versions do
not compare. The space is that of the first answer, and all vectors are of it or the run stops.

A run that ends early, killed or not, goes on where it was when it is started again in the same
way: every row comes exactly once. At most the parts that were under way are embedded again.

The corpus is a .parquet or .jsonl file. A row has an id (numbers or strings), and any of: text,
instruction, image or audio (a path or URL), video (a path or URL, frames, or
{"frames": [...], "fps": 2}), images, videos or audios (a list), a prompt in place of text and
instruction, or parts in place of text and media: ["see ", {"image": "a.png"}]. Paths start in the
folder of the corpus; in parquet media may be their bytes. A column vector is left alone; others
have to be named with --ignore.

Written are parquet files of id and vector, in the order of the corpus, whose metadata says the
space; the rows that failed and why, _errors.jsonl; and at the end _ready.json, which `vlm2vec
adapters promote --require-space-ready` reads. For an --output that ends in .parquet these are one
file, and beside it .errors.jsonl and .ready.json.

Needs pyarrow, and --engine ray needs Ray: pip install 'vlm2vec-client[reembed]' or '[ray]'."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to its parser."""
    add_flag(parser, "--input", "the corpus, .parquet or .jsonl", type=Path, required=True)
    add_flag(parser, "--output", "a .parquet file, or a folder", type=Path, required=True)
    add_flag(parser, "--from-space", "the space of the present vectors", required=True)
    add_flag(parser, "--to", "the target: alias:NAME, version:NAME or space:NAME", required=True)
    add_flag(parser, "--model", "its name; needed where the server has several")
    add_flag(parser, "--instruction", "the task of the rows that have none")
    add_flag(parser, "--dimensions", "keep the first so many; 0 keeps all", type=int, default=0)
    add_truncate_flag(parser)
    add_texts(parser, "--ignore", "a column to leave out; may be repeated")
    add_switch(parser, "--retry-failed", "embed the parts with failed rows again")
    add_flag(parser, "--max-failed", "stop when more rows have failed", type=int, default=1000)
    add_switch(parser, "--progress", "show a bar; without it, on a terminal", default=None)
    work = parser.add_argument_group("work")
    add_flag(
        work,
        "--engine",
        "local, or ray for several machines",
        type=one_of(("local", "ray")),
        default="local",
    )
    add_flag(work, "--streams", "parts under way at a time", type=int, default=2)
    add_flag(work, "--window", "rows of a part under way at a time", type=int, default=256)
    add_flag(work, "--part-rows", "rows of a part file", type=int, default=4096)
    # The server may restart meanwhile, or several times.
    add_connection_flags(parser, max_retries=20)


def run(arguments: argparse.Namespace) -> int:
    """Embeds the corpus and writes its vectors; returns 0 if all rows have one, otherwise 1.

    Raises `VLM2VecError`, ValueError and OSError where the run stops before its end.
    """
    from vlm2vec.reembed.run import run as reembed
    from vlm2vec.reembed.settings import Settings

    result = reembed(
        Settings(
            connection=connection(arguments),
            model=arguments.model or "",
            to=arguments.to,
            from_space=arguments.from_space,
            source=arguments.input,
            output=arguments.output,
            instruction=arguments.instruction,
            dimensions=arguments.dimensions,
            truncate=truncate(arguments),
            ignore=tuple(texts(arguments, "--ignore")),
            part_rows=arguments.part_rows,
            streams=arguments.streams,
            window=arguments.window,
            max_failed=arguments.max_failed,
            retry_failed=arguments.retry_failed,
            engine=arguments.engine,
            progress=wanted(arguments.progress),
        )
    )
    print(f"{result.rows - result.failed} of {result.rows} rows are in space {result.space}")
    if result.failed:
        print(f"{result.failed} rows failed: see {result.places.errors}", file=sys.stderr)
    return 1 if result.failed else 0
