"""Flags that say what to embed: images, by path or pattern, and texts."""

import argparse
import glob
from pathlib import Path

from vlm2vec.command.flags import add_texts, texts
from vlm2vec.inputs import InputLike


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `sources` reads."""
    parser.add_argument(
        "patterns", nargs="*", metavar="IMAGES", help="files or patterns; ** is any depth"
    )
    add_texts(parser, "--text", "a text; may be repeated")


def sources(arguments: argparse.Namespace) -> list[tuple[str, InputLike]]:
    """Returns pairs of a name and an input, images first.

    The name of an image is its path, and that of a text is the text. Images of one pattern are in
    the order of their paths. Raises ValueError for a pattern that no file matches, and if there are
    no inputs at all.
    """
    found: list[tuple[str, InputLike]] = []
    for pattern in arguments.patterns:
        # A file may be called what would be a pattern.
        exists = Path(pattern).exists()
        paths = [pattern] if exists else sorted(glob.glob(pattern, recursive=True))
        files = [path for path in paths if Path(path).is_file()]
        if not files:
            raise ValueError(f"no file matches {pattern!r}")
        found += [(path, Path(path)) for path in files]
    found += [(text, text) for text in texts(arguments, "--text")]
    if not found:
        raise ValueError("give images, or --text")
    return found
