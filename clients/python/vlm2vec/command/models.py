"""``vlm2vec-client models``: the models that a server has, and the versions of each."""

import argparse

from vlm2vec.command.server_flags import add_connection_flags, open_client

DESCRIPTION = """\
Lists models, one line for each version: the model, the version, its vector space, and the aliases
that point to it. A model that no worker is ready for is marked."""


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of this command to its parser."""
    add_connection_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Prints the table and returns 0. Raises `VLM2VecError` where the server cannot be asked."""
    with open_client(arguments) as client:
        models = client.models()
    rows = [("model", "version", "space", "aliases")]
    for model in models:
        name = model.name if model.ready else f"{model.name} (not ready)"
        rows += [(name, one.version, one.space, ", ".join(one.aliases)) for one in model.versions]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        print("  ".join(cells).rstrip())
    return 0
