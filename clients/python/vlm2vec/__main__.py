"""Runs the command ``python -m vlm2vec``."""

import sys

from vlm2vec.command.main import main

if __name__ == "__main__":
    sys.exit(main())
