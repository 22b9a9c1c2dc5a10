"""Flags that say what to embed: images and audios, by path or pattern, and texts."""

import argparse
import glob
from pathlib import Path

from vlm2vec.command.flags import add_texts, texts
from vlm2vec.inputs import Input, InputLike


def add_source_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that `sources` reads."""
    parser.add_argument(
        "patterns", nargs="*", metavar="IMAGES", help="files or patterns; ** is any depth"
    )
    add_texts(parser, "--audio", "an audio file, or a pattern of such; may be repeated")
    add_texts(parser, "--text", "a text; may be repeated")


def sources(arguments: argparse.Namespace) -> list[tuple[str, InputLike]]:
    """Returns pairs of a name and an input: images, then audios, then texts.

    The name of a file is its path, and that of a text is the text. Files of one pattern are in the
    order of their paths. Raises ValueError for a pattern that no file matches, and if there are no
    inputs at all.
    """
    found: list[tuple[str, InputLike]] = [
        (path, Path(path)) for pattern in arguments.patterns for path in _files(pattern)
    ]
    for pattern in texts(arguments, "--audio"):
        found += [(path, Input(audios=[Path(path)])) for path in _files(pattern)]
    found += [(text, text) for text in texts(arguments, "--text")]
    if not found:
        raise ValueError("give images, --audio or --text")
    return found


def _files(pattern: str) -> list[str]:
    """Returns the files that match, sorted. Raises ValueError if none does."""
    # A file may be called what would be a pattern.
    paths = [pattern] if Path(pattern).exists() else sorted(glob.glob(pattern, recursive=True))
    files = [path for path in paths if Path(path).is_file()]
    if not files:
        raise ValueError(f"no file matches {pattern!r}")
    return files
