"""The entry point of ``vlm2vec-client``: it parses the flags and runs one of the commands."""

import argparse
import sys
from collections.abc import Sequence

from vlm2vec.command import embed, models, rank, reembed
from vlm2vec.errors import VLM2VecError
from vlm2vec.version import __version__

_EPILOG = """\
Every flag is also an environment variable, shown in brackets; the flag wins.

Exit status: 0 when all is done, 1 when some inputs failed, 2 when nothing could be done.

Examples:
  vlm2vec-client embed 'photos/**/*.jpg' --output photos.npz --instruction 'Represent the image.'
  vlm2vec-client rank --query 'a cat and a dog' --top-k 3 'photos/*.jpg'
  vlm2vec-client reembed --from-space 3f0c... --to alias:canary --input all.parquet --output new
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command with ``argv``, or with the arguments of the process.

    Returns the exit status.
    """
    try:
        arguments = _parser().parse_args(argv)
        status: int = arguments.run(arguments)
        return status
    except (VLM2VecError, ValueError, ImportError, OSError) as error:
        print(f"vlm2vec-client: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vlm2vec-client",
        description="Embeds and ranks images and texts on a vlm2vec-serve server.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for name, module in (
        ("embed", embed),
        ("models", models),
        ("rank", rank),
        ("reembed", reembed),
    ):
        command = commands.add_parser(
            name,
            help=module.__doc__.partition(": ")[2] if module.__doc__ else None,
            description=module.DESCRIPTION,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        module.add_flags(command)
        command.set_defaults(run=module.run)
    return parser
